"""A Triton kernel: convolution, bias, sum and ReLU in one pass over memory.

Images are channels-last: pixels are rows, channels are neighbours in memory.  A program makes a
block of output pixels with all their channels.  It adds up in float32, in an order that depends
on the shape of filters alone, so a sample's numbers do not depend on its batch.

This module imports Triton, which comes with torch's CUDA builds: import it only where that is.
With ``TRITON_INTERPRET=1`` its kernel runs on a CPU.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

WIDEST = 64  # channels and filters: a program holds all of them


@triton.jit
def _products(
    x,
    weight,
    total,
    centre,  # of what each output pixel sees: the input's pixel, its row and its column
    row,
    column,
    inside,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    FILTERS: tl.constexpr,
    SIZE: tl.constexpr,
    C: tl.constexpr,
    F: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Add the products of pixels and filters to a block of sums, one place of a filter a time."""
    c = tl.arange(0, C)
    f = tl.arange(0, F)
    for r in tl.static_range(SIZE):
        for s in tl.static_range(SIZE):
            down = r - SIZE // 2
            right = s - SIZE // 2
            seen = inside & (row + down >= 0) & (row + down < HEIGHT)
            seen = seen & (column + right >= 0) & (column + right < WIDTH)
            at = (centre + (down * WIDTH + right))[:, None] * CHANNELS + c[None, :]
            a = tl.load(x + at, mask=seen[:, None] & (c < CHANNELS)[None, :], other=0.0)
            at = f[None, :] * (SIZE * SIZE * CHANNELS) + (r * SIZE + s) * CHANNELS + c[:, None]
            known = (f < FILTERS)[None, :] & (c < CHANNELS)[:, None]
            b = tl.load(weight + at, mask=known, other=0.0)
            if WIDEN:  # the interpreter multiplies no bfloat16; these are the same products
                a = a.to(tl.float32)
                b = b.to(tl.float32)
            total = tl.dot(a, b, total, input_precision=PRECISION)
    return total


@triton.jit
def _convolution(
    x,
    weight,
    bias,
    other,
    output,
    pixels,  # of the output
    HEIGHT: tl.constexpr,  # of the input
    WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    FILTERS: tl.constexpr,
    SIZE: tl.constexpr,  # of a filter: 1 or 3, with a padding of 0 or 1
    STRIDE: tl.constexpr,
    BLOCK: tl.constexpr,  # output pixels
    C: tl.constexpr,  # channels and filters, up to a power of two
    F: tl.constexpr,
    RELU: tl.constexpr,
    PRECISION: tl.constexpr,
    IS_LONG: tl.constexpr,  # whether indices need 64 bits
    WIDEN: tl.constexpr,
):
    pixel = _first(BLOCK, IS_LONG) + tl.arange(0, BLOCK)
    inside = pixel < pixels
    out_width: tl.constexpr = (WIDTH - 1) // STRIDE + 1
    out_size: tl.constexpr = ((HEIGHT - 1) // STRIDE + 1) * out_width
    row = pixel % out_size // out_width * STRIDE
    column = pixel % out_width * STRIDE
    centre = pixel
    if STRIDE != 1:
        centre = (pixel // out_size * HEIGHT + row) * WIDTH + column
    f = tl.arange(0, F)
    total = tl.zeros((BLOCK, F), tl.float32)
    if bias is not None:
        total += tl.load(bias + f, mask=f < FILTERS, other=0.0).to(tl.float32)[None, :]
    # fmt: off
    total = _products(x, weight, total, centre, row, column, inside, HEIGHT, WIDTH, CHANNELS,
                      FILTERS, SIZE, C, F, PRECISION, WIDEN)
    # fmt: on
    _finish(total, other, output, pixel, f, inside, FILTERS, RELU)


@triton.jit
def _first(BLOCK: tl.constexpr, IS_LONG: tl.constexpr):
    """Return the first output pixel of this program."""
    program = tl.program_id(0)
    if IS_LONG:
        program = program.to(tl.int64)
    return program * BLOCK


@triton.jit
def _finish(total, other, output, pixel, f, inside, FILTERS: tl.constexpr, RELU: tl.constexpr):
    """Add what there is to add, rectify and store a block of sums."""
    at = pixel[:, None] * FILTERS + f[None, :]
    kept = inside[:, None] & (f < FILTERS)[None, :]
    if other is not None:
        total += tl.load(other + at, mask=kept, other=0.0).to(tl.float32)
    if RELU:
        total = tl.where(total < 0, 0.0, total)  # not a maximum: NaN stays NaN
    tl.store(output + at, total.to(output.dtype.element_ty), mask=kept)


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    other: Tensor | None,
    relu: bool,
    *,
    stride: int,
    into_other: bool = False,
    precision: str,
    block: int,
    warps: int,
    stages: int,
) -> Tensor:
    """Return ``relu(conv(x) + bias + other)``, channels-last.

    Args:
        x: (N, C, H, W), at most `WIDEST` channels.  It is copied if it is not channels-last.
        weight: (F, C, 3, 3) or (F, C, 1, 1), at most `WIDEST` filters; the padding is 1 or 0.
        bias: (F,), or None.
        other: Of the shape of the result, or None.
        relu: Whether negative numbers become 0.
        stride: 1 or 2.
        into_other: Whether the result may take the place of ``other``.
        precision: Of products of float32 numbers: ``tf32``, ``tf32x3`` or ``ieee``.
        block: Output pixels of a program, a power of two, at least 16.
        warps: Of a program.
        stages: Of Triton's pipeline.
    """
    x, weight = _channels_last(x), _channels_last(weight)
    shape = len(x), len(weight), *((places - 1) // stride + 1 for places in x.shape[2:])
    other = None if other is None else _channels_last(other)
    output = other if into_other else None
    if output is None:
        last = torch.channels_last
        output = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=last)
    how = {"STRIDE": stride, "BLOCK": block, "RELU": relu, "PRECISION": precision}
    _launch(x, weight, bias, other, output, how | {"num_warps": warps, "num_stages": stages})
    return output


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


def _launch(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    other: Tensor | None,
    output: Tensor,
    how: dict[str, Any],
) -> None:
    pixels = output.numel() // len(weight)
    filters, channels, size, _ = weight.shape
    largest = max(x.numel(), output.numel()) + how["BLOCK"] * max(filters, channels)
    with torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext():
        _convolution[(triton.cdiv(pixels, how["BLOCK"]),)](
            *(x, weight, bias, other, output, pixels),
            HEIGHT=x.shape[2],
            WIDTH=x.shape[3],
            CHANNELS=channels,
            FILTERS=filters,
            SIZE=size,
            C=max(16, triton.next_power_of_2(channels)),
            F=max(16, triton.next_power_of_2(filters)),
            IS_LONG=needs_long(largest),
            WIDEN=x.dtype == torch.bfloat16 and not x.is_cuda,
            **how,
        )


def needs_long(numbers: int) -> bool:
    """Whether the indices of so many numbers take 64 bits.

    Example:
        >>> needs_long(2**31 - 1), needs_long(2**31)
        (False, True)
    """
    return numbers > 2**31 - 1
