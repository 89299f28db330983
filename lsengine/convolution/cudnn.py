"""cuDNN's fused convolution, on CUDA: with bias, sum and ReLU, always with a ReLU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lsengine.convolution import steps


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    other: Tensor | None,
    relu: bool,
    *geometry: Any,
    into_other: bool = False,  # it saves nothing here
) -> Tensor:
    """Return ``relu(conv(x) + other)`` by one call; see `lsengine.convolution.convolutions`."""
    if other is None:
        return torch.cudnn_convolution_relu(x, weight, bias, *geometry)
    if not steps.adds_alike(x, weight, other, *geometry):
        return steps.convolve(x, weight, bias, other, relu, *geometry)
    return torch.cudnn_convolution_add_relu(x, weight, other, 1.0, bias, *geometry)
