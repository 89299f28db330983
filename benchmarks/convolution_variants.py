"""Kernels that may be faster than the one in use; none has been measured on a card yet.

`convolve` makes `packed` neighbouring pixels of a row at once: what they see in a row of the input
is contiguous in memory, and is one K of a dot.  With one pixel these are three taps in one dot.
`stage` runs the residual blocks of a whole stage: a program keeps its images from block to block.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

# fmt: off
# C is the number of channels and of filters, a power of two, at least 16.  PACKED pixels of a row
# are a group.  It sees K channels of a row, up to a power of two.  BLOCK counts groups.


@triton.jit
def _block(
    x, weight, bias, other, output, group, groups,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, C: tl.constexpr, PACKED: tl.constexpr,
    K: tl.constexpr, PRECISION: tl.constexpr,
):
    """Convolve, add and rectify for the pixels of each ``group`` below ``groups``."""
    across: tl.constexpr = (WIDTH + PACKED - 1) // PACKED
    row = group // across % HEIGHT
    column = group % across * PACKED
    first = group // across * WIDTH + column
    inside = group < groups
    j = tl.arange(0, K)
    n = tl.arange(0, PACKED * C)
    seen_column = column[:, None] + (j // C - 1)[None, :]
    known = (j < (PACKED + 2) * C)[None, :] & (seen_column >= 0) & (seen_column < WIDTH)
    known = known & inside[:, None]
    total = tl.zeros((group.shape[0], PACKED * C), tl.float32)
    total += tl.load(bias + n % C).to(tl.float32)[None, :]
    for r in tl.static_range(3):
        seen = known & ((row + (r - 1) >= 0) & (row + (r - 1) < HEIGHT))[:, None]
        at = (first + ((r - 1) * WIDTH - 1))[:, None] * C + j[None, :]
        a = tl.load(x + at, mask=seen, other=0.0)
        b = tl.load(weight + (r * K + j)[:, None] * (PACKED * C) + n[None, :])
        total = tl.dot(a, b, total, input_precision=PRECISION)
    at = first[:, None] * C + n[None, :]
    kept = inside[:, None] & (column[:, None] + (n // C)[None, :] < WIDTH)
    if other is not None:
        total += tl.load(other + at, mask=kept, other=0.0).to(tl.float32)
    total = tl.where(total < 0, 0.0, total)  # not a maximum: NaN stays NaN
    tl.store(output + at, total.to(output.dtype.element_ty), mask=kept)


@triton.jit
def _convolution(
    x, weight, bias, other, output, groups,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, C: tl.constexpr, PACKED: tl.constexpr,
    K: tl.constexpr, PRECISION: tl.constexpr, BLOCK: tl.constexpr,
):
    group = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    _block(x, weight, bias, other, output, group, groups, HEIGHT, WIDTH, C, PACKED, K, PRECISION)


@triton.jit
def _stage(
    x, weight, bias, between, output, images,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, C: tl.constexpr, PACKED: tl.constexpr,
    K: tl.constexpr, PRECISION: tl.constexpr, BLOCK: tl.constexpr, CHUNKS: tl.constexpr,
    IMAGES: tl.constexpr, TURNS: tl.constexpr, DEPTH: tl.constexpr,
):
    """Take IMAGES, TURNS times: CHUNKS blocks of pixels, through DEPTH residual blocks."""
    size: tl.constexpr = HEIGHT * WIDTH * C
    across: tl.constexpr = (WIDTH + PACKED - 1) // PACKED
    part: tl.constexpr = BLOCK * C
    layer: tl.constexpr = 3 * K * PACKED * C
    between += tl.program_id(0) * (IMAGES * size)
    for turn in range(TURNS):
        image = (turn * tl.num_programs(0) + tl.program_id(0)) * IMAGES
        left = tl.minimum(images - image, IMAGES)
        groups = left * (HEIGHT * across)
        here = output + image * size
        for start in range(0, IMAGES * size, part):
            at = start + tl.arange(0, part)
            known = at < left * size
            tl.store(here + at, tl.load(x + image * size + at, mask=known), mask=known)
        tl.debug_barrier()  # pixels see neighbours that other threads have made
        for depth in range(DEPTH):
            first = weight + depth * (2 * layer)
            first_bias = bias + depth * (2 * C)
            for chunk in range(CHUNKS):
                group = chunk * BLOCK + tl.arange(0, BLOCK)
                _block(here, first, first_bias, None, between, group, groups,
                       HEIGHT, WIDTH, C, PACKED, K, PRECISION)
            tl.debug_barrier()
            for chunk in range(CHUNKS):
                group = chunk * BLOCK + tl.arange(0, BLOCK)
                _block(between, first + layer, first_bias + C, here, here, group, groups,
                       HEIGHT, WIDTH, C, PACKED, K, PRECISION)
            tl.debug_barrier()
# fmt: on


def pack(weight: Tensor, packed: int) -> Tensor:
    """Return the weights of `packed` neighbouring pixels: (..., 3, K, packed x C).

    Each row of taps is a Toeplitz matrix from what the pixels see, padded with zeros to a power of
    two, to their filters.  It is made once for a cell.

    Args:
        weight: (..., C, C, 3, 3); any number of layers.
        packed: 1, 2 or 4.
    """
    *layers, filters, channels, _, _ = weight.shape
    taps = weight.movedim((-4, -3), (-1, -2))  # (..., row, column, channel, filter)
    places = triton.next_power_of_2((packed + 2) * channels) // channels
    shape = (*layers, 3, places, channels, packed, filters)
    found = weight.new_zeros(shape)
    for pixel in range(packed):
        found[..., pixel : pixel + 3, :, pixel, :] = taps
    return found.reshape(*layers, 3, places * channels, packed * filters)


def convolve(
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
    """Return ``relu(conv(x) + bias + other)`` for 3x3, stride 1 and C filters, channels-last.

    A number that is not finite makes its packed neighbours NaN, too, since they multiply it by 0.

    Args:
        x: (N, C, H, W), fewer than 2**31 numbers.
        weight: What `pack` gives, (3, K, packed x C).
        bias: (C,).
        other: As ``x``, or None.
        precision: Of products of float32 numbers: ``tf32``, ``tf32x3`` or ``ieee``.
        block: Pixels of a program, a power of two, at least 16 times ``packed``.
        warps: Of a program.
        stages: Of Triton's pipeline.
    """
    output = torch.empty_like(x)
    packed, how = _launch(x, weight, precision, block, warps, stages)
    groups = len(x) * x.shape[2] * triton.cdiv(x.shape[3], packed)
    with _device(x):
        _convolution[(triton.cdiv(groups, how["BLOCK"]),)](
            x, weight, bias, other, output, groups, **how
        )
    return output


def stage(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    precision: str,
    block: int,
    warps: int,
    programs: int,
) -> Tensor:
    """Return what residual blocks ``x -> relu(x + conv(relu(conv(x))))`` make, channels-last.

    Args:
        x: (N, C, H, W), fewer than 2**31 numbers.
        weight: What `pack` gives for both layers of each block, (2 x blocks, 3, K, packed x C).
        bias: (2 x blocks, C).
        precision: Of products of float32 numbers: ``tf32``, ``tf32x3`` or ``ieee``.
        block: Pixels that a program makes at a time.  Its images are one, or as many as fit in.
        warps: Of a program.
        programs: How many share the images.
    """
    images, channels, height, width = x.shape
    output = torch.empty_like(x)
    # No pipeline: its buffers take the memory of the multiprocessor in which images stay.
    packed, how = _launch(x, weight, precision, block, warps, stages=1)
    together = max(1, block // (height * width))
    between = x.new_empty(programs, together, height, width, channels)
    with _device(x):
        _stage[(programs,)](
            *(x, weight, bias, between, output, images),
            CHUNKS=triton.cdiv(together * height * triton.cdiv(width, packed), how["BLOCK"]),
            IMAGES=together,
            TURNS=triton.cdiv(images, programs * together),
            DEPTH=len(weight) // 2,
            **how,
        )
    return output


def _launch(
    x: Tensor, weight: Tensor, precision: str, block: int, warps: int, stages: int
) -> tuple[int, dict[str, Any]]:
    """Return how many pixels are packed, and what both kernels are told."""
    _, channels, height, width = x.shape
    packed = weight.shape[-1] // channels
    return packed, {
        "HEIGHT": height,
        "WIDTH": width,
        "C": channels,
        "PACKED": packed,
        "K": weight.shape[-2],
        "PRECISION": precision,
        "BLOCK": block // packed,
        "num_warps": warps,
        "num_stages": stages,
    }


def _device(x: Tensor) -> Any:
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()
