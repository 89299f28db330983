"""Kernels that may be faster than the one in use; none has been measured on a card yet."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _three_taps(
    x,
    weight,
    bias,
    other,
    output,
    pixels,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    C: tl.constexpr,  # channels, and as many filters: a power of two, at least 16
    ROW: tl.constexpr,  # three times C, up to a power of two
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Take the three neighbours in a row, which are contiguous, as one K: three dots, not nine."""
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < pixels
    row = pixel % (HEIGHT * WIDTH) // WIDTH
    column = pixel % WIDTH
    f = tl.arange(0, C)
    j = tl.arange(0, ROW)
    seen_column = column[:, None] + (j // C - 1)[None, :]
    known = (j < 3 * C)[None, :] & (seen_column >= 0) & (seen_column < WIDTH) & inside[:, None]
    total = tl.zeros((BLOCK, C), tl.float32) + tl.load(bias + f).to(tl.float32)[None, :]
    for r in tl.static_range(3):
        seen = known & ((row + (r - 1) >= 0) & (row + (r - 1) < HEIGHT))[:, None]
        at = (pixel + ((r - 1) * WIDTH - 1))[:, None] * C + j[None, :]
        a = tl.load(x + at, mask=seen, other=0.0)
        at = f[None, :] * (9 * C) + r * 3 * C + j[:, None]
        b = tl.load(weight + at, mask=(j < 3 * C)[:, None], other=0.0)
        total = tl.dot(a, b, total, input_precision=PRECISION)
    at = pixel[:, None] * C + f[None, :]
    if other is not None:
        total += tl.load(other + at, mask=inside[:, None], other=0.0).to(tl.float32)
    total = tl.where(total < 0, 0.0, total)
    tl.store(output + at, total.to(output.dtype.element_ty), mask=inside[:, None])


def three_taps(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    other: Tensor | None,
    *,
    precision: str,
    block: int,
    warps: int,
    stages: int,
) -> Tensor:
    """Return ``relu(conv(x) + bias + other)`` for 3x3, stride 1 and C filters, channels-last."""
    images, channels, height, width = x.shape
    output, pixels = torch.empty_like(x), images * height * width
    here: Any = torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()
    with here:
        _three_taps[(triton.cdiv(pixels, block),)](
            *(x, weight, bias, other, output, pixels),
            HEIGHT=height,
            WIDTH=width,
            C=channels,
            ROW=triton.next_power_of_2(3 * channels),
            BLOCK=block,
            PRECISION=precision,
            num_warps=warps,
            num_stages=stages,
        )
    return output
