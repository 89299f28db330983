"""Convolution, sum and ReLU one by one, as torch does them on any device."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    other: Tensor | None,
    relu: bool,
    *geometry: Any,
    into_other: bool = False,  # it saves nothing here
) -> Tensor:
    """Return ``relu(conv(x) + other)``; see `lsengine.convolution.convolutions`."""
    output = F.conv2d(x, weight, bias, *geometry)
    if other is not None:
        output.add_(other)
    return output.relu_() if relu else output


def adds_alike(
    x: Tensor, weight: Tensor, other: Tensor, stride: Any, padding: Any, dilation: Any, _: int
) -> bool:
    """Whether what is added has shape and dtype of the result, so that nothing is broadcast."""
    sizes = zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    places = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sizes]
    return other.shape == (len(x), len(weight), *places) and other.dtype == x.dtype
