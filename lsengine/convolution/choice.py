"""Which kernel convolves on CUDA: arithmetic on shapes, read from a table of measurements.

No stopwatch has a say, so the same job takes the same kernels on the same kind of device.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

NEEDED = (8, 0)  # the capability of the first cards with tf32 and bfloat16; Triton needs it, too
_TIE = 1.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """What a choice depends on: a two-dimensional convolution without its numbers.

    Attributes:
        channels: Of the input.
        filters: How many.
        size: Height and width of a filter.
        stride, padding, dilation: Along height and width.
        groups: Of channels.
        relu: Whether a ReLU follows.
    """

    channels: int
    filters: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...] = (1, 1)
    groups: int = 1
    relu: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A kernel, and how it is launched.

    Attributes:
        kernel: ``triton``, ``cudnn`` (its fused convolution) or ``steps`` (convolution, sum and
            ReLU one by one).
        row_major: Whether images are row-major instead of channels-last.
        block: Output pixels of a Triton program; 0 for other kernels, as the next two.
        warps: Of a program.
        stages: Of Triton's pipeline.
    """

    kernel: str
    row_major: bool = False
    block: int = 0
    warps: int = 0
    stages: int = 0


class _Row(NamedTuple):
    """Microseconds of 3x3 + bias + sum + ReLU by Triton and by cuDNN, and Triton's launch."""

    triton_us: float
    cudnn_us: float
    block: int
    warps: int
    stages: int


# As many filters as channels, 4,096 images of 32x32, 16x16 and 8x8 for 16, 32 and 64 channels.
# One NVIDIA H200, torch 2.11.0+cu130, cuDNN 9.19, Triton 3.6, 2026-11-27.  cuDNN's time is that of
# its fused convolution, in float32 that of row-major images.  In float16 Triton took what it takes
# in bfloat16, and whole passes of ResNet-110 by cuDNN 1.32 times as long: so do the rows here.
# Blocks take at most 48 KiB of shared memory (compiled for 8.0, 8.6, 9.0 and 12.0), which all cards
# have.  `benchmarks/tune_convolution.py` prints such a table for the card at hand.
_MEASURED = {
    "bfloat16": {
        16: _Row(243, 754, 256, 4, 4),
        32: _Row(171, 169, 128, 4, 2),
        64: _Row(120, 92, 256, 4, 2),
    },
    "float16": {
        16: _Row(243, 995, 256, 4, 4),
        32: _Row(171, 223, 128, 4, 2),
        64: _Row(120, 121, 256, 4, 2),
    },
    "tf32": {
        16: _Row(495, 649, 128, 4, 2),
        32: _Row(284, 296, 128, 4, 2),
        64: _Row(215, 209, 128, 4, 2),
    },
    "float32": {  # in three products of tf32 numbers each, `tf32x3`
        16: _Row(838, 1627, 64, 4, 2),
        32: _Row(617, 741, 128, 8, 2),
        64: _Row(554, 548, 128, 8, 2),
    },
}


def choose(
    geometries: Sequence[Geometry],
    precision: str,
    *,
    capability: tuple[int, int],
    fit: Collection[str] = ("triton", "cudnn"),
) -> list[Choice]:
    """Return the kernel of each convolution of a network on CUDA.

    In float32 a network has one layout.  cuDNN is slow there with channels-last images, and
    Triton's kernel wants them.  So Triton's is taken if it does all convolutions, and otherwise
    images are row-major.  In other precisions they are channels-last.

    Args:
        geometries: Of all convolutions.
        precision: ``float32``, ``tf32``, ``float16`` or ``bfloat16``.
        capability: Of the device.
        fit: The kernels that run here, besides single steps.

    Example:
        >>> layer = Geometry(channels=16, filters=16, size=(3, 3), stride=(1, 1), padding=(1, 1))
        >>> choose([layer], "bfloat16", capability=(9, 0))
        [Choice(kernel='triton', row_major=False, block=256, warps=4, stages=4)]
        >>> choose([layer], "float32", capability=(9, 0), fit=["cudnn"])
        [Choice(kernel='steps', row_major=True, block=0, warps=0, stages=0)]
    """
    fit = fit if capability >= NEEDED else ()
    kernels = [_kernel(geometry, precision, fit) for geometry in geometries]
    if precision == "float32" and set(kernels) != {"triton"}:
        return [Choice(kernel="steps", row_major=True) for _ in kernels]
    pairs = zip(kernels, geometries, strict=True)
    return [_launched(_row(g, precision)) if k == "triton" else Choice(kernel=k) for k, g in pairs]


def _kernel(geometry: Geometry, precision: str, fit: Collection[str]) -> str:
    """Return the kernel of a convolution whose images are channels-last."""
    if geometry.groups != 1 or geometry.dilation != (1, 1):
        return "steps"
    widths = geometry.channels, geometry.filters
    # cuDNN fuses only what ends in a ReLU; its tensor cores want 16 bytes of channels at a time.
    is_fused = geometry.relu and all(width % 8 == 0 for width in widths)
    can_cudnn = "cudnn" in fit and is_fused and precision != "float32"
    if "triton" in fit and _fits_triton(geometry):
        row = _row(geometry, precision)
        # Of two that tie, the one whose numbers do not depend on what else is in a batch.
        if not can_cudnn or row.triton_us <= _TIE * row.cudnn_us:
            return "triton"
    return "cudnn" if can_cudnn else "steps"


def _fits_triton(geometry: Geometry) -> bool:
    is_padded = (geometry.size, geometry.padding) in (((3, 3), (1, 1)), ((1, 1), (0, 0)))
    is_narrow = max(geometry.channels, geometry.filters) <= 64
    return is_padded and is_narrow and geometry.stride in ((1, 1), (2, 2))


def _row(geometry: Geometry, precision: str) -> _Row:
    """Return what was measured for the width, or for the next larger one that was."""
    width = max(geometry.channels, geometry.filters)
    return next(row for measured, row in _MEASURED[precision].items() if width <= measured)


def _launched(row: _Row) -> Choice:
    return Choice(kernel="triton", block=row.block, warps=row.warps, stages=row.stages)
