"""A convolution with the sum and the ReLU after it, in one step where that is possible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

Convolve = Callable[..., Tensor]


def convolution(device: torch.device, dtype: torch.dtype) -> Convolve:
    """Return what convolves, adds and rectifies, at best in one step.

    oneDNN's fused convolution is what torch's own compiler calls on a CPU; it has no public
    name, so that without it, and on other devices, the three steps are done one by one.

    Args:
        device: Where.
        dtype: In which precision.

    Returns:
        A function of input (N, C, H, W), weight, bias, what to add (or None), whether
        to rectify, stride, padding, dilation and groups; with ``into_other`` the result may
        take the place of what is added.
    """
    own = getattr(torch.ops.mkldnn, "_convolution_pointwise", None)
    known = device.type == "cpu" and (dtype == torch.float32 or _has_bfloat16(dtype))
    return (
        fused_conv_add_relu if known and own and torch.backends.mkldnn.is_available() else _in_steps
    )


def _has_bfloat16(dtype: torch.dtype) -> bool:
    """Whether it is bfloat16, and oneDNN has kernels for it on this processor."""
    asked = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return dtype == torch.bfloat16 and asked is not None and bool(asked())


def _in_steps(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    other: Tensor | None,
    relu: bool,
    *where: Any,
    into_other: bool = False,  # it saves nothing here
) -> Tensor:
    output = F.conv2d(x, weight, bias, *where)
    if other is not None:
        output.add_(other)
    return output.relu_() if relu else output


def fused_conv_add_relu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    other: Tensor | None,
    relu: bool,
    *where: Any,
    into_other: bool = False,
) -> Tensor:
    """Return ``relu(conv(x) + other)`` by one call of oneDNN."""
    stride, padding, dilation, groups = where
    if other is not None and not other.is_contiguous(memory_format=torch.channels_last):
        return _in_steps(x, weight, bias, other, relu, *where)  # it would not be one step anyway
    fuse: Any = torch.ops.mkldnn._convolution_pointwise
    geometry = (padding, stride, dilation, groups)
    last = "relu" if relu else None
    if other is None:
        output = fuse(x, weight, bias, *geometry, last or "none", [], "")
    elif into_other:
        fuse = torch.ops.mkldnn._convolution_pointwise_
        output = fuse.binary(other, x, weight, bias, *geometry, "add", 1.0, last, [], None)
    else:
        output = fuse.binary(x, other, weight, bias, *geometry, "add", 1.0, last, [], None)
    return cast(Tensor, output)
