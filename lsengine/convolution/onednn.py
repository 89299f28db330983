"""OneDNN's fused convolution, on a CPU.

It is what torch's own compiler calls there; it has no public name.
"""

from __future__ import annotations

import functools
import logging
from typing import Any, cast

import torch
from torch import Tensor

from lsengine.convolution import steps
from lsengine.log import NOTICE

log = logging.getLogger(__name__)
TRIED_WITH = ("2.13",)  # versions of torch whose private operators are known to do this


def is_fit(dtype: torch.dtype) -> bool:
    """Whether oneDNN convolves in a precision on this processor, and does it as expected."""
    return _has_kernels(dtype) and _does_as_expected()


def _has_kernels(dtype: torch.dtype) -> bool:
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
            output = convolve(*numbers, other, True, *geometry, into_other=into_other)
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


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    other: Tensor | None,
    relu: bool,
    *geometry: Any,
    into_other: bool = False,
) -> Tensor:
    """Return ``relu(conv(x) + other)`` by one call; see `lsengine.convolution.convolutions`."""
    stride, padding, dilation, groups = geometry
    if other is not None and not other.is_contiguous(memory_format=torch.channels_last):
        return steps.convolve(x, weight, bias, other, relu, *geometry)  # it would not be one step
    library: Any = torch.ops.mkldnn
    where, last = (padding, stride, dilation, groups), "relu" if relu else None
    if other is None:
        output = library._convolution_pointwise(x, weight, bias, *where, last or "none", [], "")
    else:
        fuse = library._convolution_pointwise_ if into_other else library._convolution_pointwise
        operands = (other, x) if into_other else (x, other)
        output = fuse.binary(*operands, weight, bias, *where, "add", 1.0, last, [], None)
    return cast(Tensor, output)
