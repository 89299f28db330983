"""What runs on a CUDA device, found out once in a process by a few known numbers.

The answer is the same in every run on the same machine.  It is never a matter of time.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lsengine import devices
from lsengine.convolution import cudnn, steps
from lsengine.log import NOTICE

log = logging.getLogger(__name__)
_GEOMETRY = ((1, 1), (1, 1), (1, 1), 1)


@functools.cache
def has_triton(device: torch.device) -> bool:
    """Whether Triton is installed, finds its compiler and does what it should."""
    if importlib.util.find_spec("triton") is None:
        return False

    def convolve(x: Tensor, weight: Tensor, bias: Tensor, other: Tensor | None) -> Tensor:
        from lsengine.convolution import kernels  # it imports Triton, which may be broken

        launch: dict[str, Any] = {"precision": "tf32", "block": 64, "warps": 4, "stages": 2}
        return kernels.convolve(x, weight, bias, other, True, stride=1, **launch)

    return _is_right("Triton's kernels", convolve, device, torch.float16)


@functools.cache
def has_cudnn(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether cuDNN has a fused convolution that keeps NaN and reads no stale memory."""

    def convolve(x: Tensor, weight: Tensor, bias: Tensor, other: Tensor | None) -> Tensor:
        return cudnn.convolve(x, weight, bias, other, True, *_GEOMETRY)

    return _is_right("cuDNN's fused convolutions", convolve, device, dtype)


def _is_right(
    name: str, convolve: Callable[..., Tensor], device: torch.device, dtype: torch.dtype
) -> bool:
    """Compare with single steps; say why if they differ."""
    try:
        reason = _difference(convolve, device, dtype)
    except Exception as error:  # no compiler, no engine, an operator that has gone
        if devices.is_out_of_memory(error):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    if reason:
        log.log(NOTICE, "convolving without %s, which is slower: %s", name, reason)
    return not reason


def _difference(convolve: Callable[..., Tensor], device: torch.device, dtype: torch.dtype) -> str:
    """Return what is wrong with a convolution; empty if nothing is.

    All sums are of few small whole numbers, so that they are exact in every precision.
    """
    x, other = _whole((2, 64, 8, 8), 37), _whole((2, 64, 8, 8), 11)
    weight, bias = _whole((64, 64, 3, 3), 2), _whole((64,), 1)
    numbers = [t.to(device, dtype) for t in (x, weight, bias, other)]
    for exact, added in ((None, None), (other, numbers[3])):
        expected = steps.convolve(x, weight, bias, exact, True, *_GEOMETRY)
        # Memory as a cell that overflows leaves it: cuDNN multiplies its own output by 0 at first.
        stale = torch.full_like(numbers[3], torch.nan)
        del stale
        output = convolve(*numbers[:3], added)
        if not torch.equal(output.double().cpu(), expected):
            return "another result than that of single steps"
        broken = numbers[0].clone()
        broken[0, 0, 4, 4] = torch.nan
        if not bool(convolve(broken, *numbers[1:3], added)[0, :, 4, 4].isnan().all()):
            return "a ReLU that makes a number of NaN"
    return ""


def _whole(shape: tuple[int, ...], period: int) -> Tensor:
    """Return numbers from -2 to 2, channels-last, of which only each ``period``-th is not 0."""
    count = torch.arange(math.prod(shape), dtype=torch.float64)
    numbers = ((count % 5 - 2) * (count % period == 0)).view(shape)
    last = torch.channels_last if numbers.ndim == 4 else torch.contiguous_format
    return numbers.contiguous(memory_format=last)
