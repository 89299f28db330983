"""A convolution with the sum and the ReLU after it, in one step where that is possible."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from lsengine.log import NOTICE

log = logging.getLogger(__name__)
Convolve = Callable[..., Tensor]
TRIED_WITH = ("2.13",)  # versions of torch whose private operators are known to do this


def convolution(device: torch.device, dtype: torch.dtype) -> Convolve:
    """Return what convolves, adds and rectifies, at best in one step.

    oneDNN's fused convolution is what torch's own compiler calls on a CPU; it has no public
    name, so that without it, and on other devices, the three steps are done one by one.

    Returns:
        A function of input (N, C, H, W), weight, bias, what to add (or None), whether
        to rectify, stride, padding, dilation and groups; with ``into_other`` the result may
        take the place of what is added.
    """
    in_one_step = device.type == "cpu" and _has_kernels(dtype) and _does_as_expected()
    return _fused_conv_add_relu if in_one_step else _in_steps


def _has_kernels(dtype: torch.dtype) -> bool:
    """Whether oneDNN convolves in a precision on this processor."""
    if not torch.backends.mkldnn.is_available() or dtype not in (torch.float32, torch.bfloat16):
        return False
    asked = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    return dtype == torch.float32 or bool(asked())


@functools.cache
def _does_as_expected() -> bool:
    """Try all three private operators of torch with one number, once in a process."""
    one = torch.ones(1, 1, 1, 1).to(memory_format=torch.channels_last)
    numbers, geometry = (2 * one, 3 * one, one.flatten()), ((1, 1), (0, 0), (1, 1), 1)
    outputs = []
    try:
        for other, into_other in ((None, False), (one, False), (-8 * one, True)):
            output = _fused_conv_add_relu(*numbers, other, True, *geometry, into_other=into_other)
            outputs.append(float(output))
    except (AttributeError, RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
    else:
        if outputs == [7, 8, 0]:
            return True
        reason = f"it returns {outputs} in the place of [7, 8, 0]"
    log.log(
        NOTICE,
        "convolving in several steps, which is slower: oneDNN's fused convolution does not do what "
        "it does in torch %s; this is torch %s: %s",
        " and ".join(TRIED_WITH),
        torch.__version__,
        reason,
    )
    return False


def _in_steps(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    other: Tensor | None,
    relu: bool,
    *geometry: Any,
    into_other: bool = False,  # it saves nothing here
) -> Tensor:
    output = F.conv2d(x, weight, bias, *geometry)
    if other is not None:
        output.add_(other)
    return output.relu_() if relu else output


def _fused_conv_add_relu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    other: Tensor | None,
    relu: bool,
    *geometry: Any,
    into_other: bool = False,
) -> Tensor:
    """Return ``relu(conv(x) + other)`` by one call of oneDNN."""
    stride, padding, dilation, groups = geometry
    if other is not None and not other.is_contiguous(memory_format=torch.channels_last):
        return _in_steps(x, weight, bias, other, relu, *geometry)  # it would not be one step
    library: Any = torch.ops.mkldnn
    where, last = (padding, stride, dilation, groups), "relu" if relu else None
    if other is None:
        output = library._convolution_pointwise(x, weight, bias, *where, last or "none", [], "")
    else:
        fuse = library._convolution_pointwise_ if into_other else library._convolution_pointwise
        operands = (other, x) if into_other else (x, other)
        output = fuse.binary(*operands, weight, bias, *where, "add", 1.0, last, [], None)
    return cast(Tensor, output)
