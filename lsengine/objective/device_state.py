"""What moves, as one vector on the device, and how cells are evaluated.

Shape suffix: M numbers that move.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lsengine.curvature import LanczosOptions, Way
from lsengine.geometry.parameters import as_real, can_move, dtype_like, like_kind
from lsengine.objective.residence import Residence
from lsengine.surface.grid import Cell

Steps = Callable[[Cell], Sequence[float]]
Directions = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSettings:
    """How cells are evaluated; what values depend on is recorded in the surface file.

    Attributes:
        device: Where everything is resident.
        precision: ``float32``, ``float64``, or a faster one: ``tf32`` (CUDA), ``bfloat16``,
            ``float16``.  Weights are then displaced in float32, and rounded.
        batch_size: Samples per forward pass.
        batch_norm: ``frozen``, ``interpolated`` or ``recalibrated``.
        recalibration: Training samples and batch size of ``recalibrated``.
        seed: Of the draw of the recalibration's samples.
        fuses: Whether the network is traced and its layers fused, which is faster; not for a
            user's own network, whose Python code tracing would skip.
        compiles: Whether the network is compiled by ``torch.compile`` in the place of fusing.
        channels_last: Whether images and filters are laid out channels-last; `Objective` decides
            it by `lsengine.objective.layout`.
        curvature: How to look for extreme eigenvalues; None not to.
        curvature_of_moved: Whether only the parameters that move count, or all.
        tf32_products: Whether products with Hessians may round their factors as tf32 does.
        accuracy: Whether to tell which samples of classes are right.
        products_by: The way of products with Hessians, if it is known; else it is found out.
        peers: Processes that share the memory of this host in the same way, this one included.
        residence: Where inputs are; by default what fits into the memory that is free.
    """

    device: torch.device
    precision: str
    batch_size: int
    batch_norm: str = "frozen"
    recalibration: tuple[int, int] = (5000, 128)
    seed: int = 0
    fuses: bool = True
    compiles: bool = False
    channels_last: bool = True
    curvature: LanczosOptions | None = None
    curvature_of_moved: bool = False
    tf32_products: bool = False
    accuracy: bool = True
    products_by: Way | None = None
    peers: int = 1
    residence: Residence | None = None

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of weights, and of data for everything but cells' own forward passes."""
        return torch.float64 if self.precision == "float64" else torch.float32

    @property
    def compute_dtype(self) -> torch.dtype:
        """The dtype of activations in a cell's forward pass."""
        fast = {"bfloat16": torch.bfloat16, "float16": torch.float16}
        return fast.get(self.precision, self.dtype)


class Vectors:
    """Centre (M,) and directions (M,), by repeat and axis, and a cell's steps along each."""

    def __init__(
        self, centre_M: Tensor, directions: Sequence[Sequence[Tensor]], steps: Steps
    ) -> None:
        self.centre_M, self._directions, self._steps = centre_M, directions, steps

    def displace(self, cell: Cell, out_M: Tensor) -> None:
        """Set a vector to ``centre + alpha * d1 + beta * d2``, or by other steps."""
        start_M, steps = self.centre_M, self._steps(cell)
        for step, direction_M in zip(steps, self._directions[cell.repeat], strict=False):
            if step:  # an infinite weight times a zero step would be NaN
                start_M = torch.add(start_M, direction_M, alpha=step, out=out_M)
        if start_M is self.centre_M:
            out_M.copy_(start_M)

    def times(self, factor_M: Tensor) -> Vectors:
        """Return the same cells with every number multiplied by a factor of its own."""
        directions = [[d_M * factor_M for d_M in of_repeat] for of_repeat in self._directions]
        return Vectors(self.centre_M * factor_M, directions, self._steps)


class FlatParameters:
    """All numbers that move, as one vector the model's parameters are views of.

    The arguments are those of `Objective`.  What moves includes running statistics.

    Attributes:
        slices: Where the numbers of what moves are in the vector, by name in its order.
        vectors: Centre and directions.
    """

    def __init__(
        self,
        model: nn.Module,
        directions: Directions,
        settings: EvaluationSettings,
        *,
        repeats: bool,
        steps: Steps | None,
    ) -> None:
        tensors = dict(model.named_parameters()) | dict(model.named_buffers())
        moving = {name for of_axis in directions.values() for name in of_axis}
        # Complex ones first: a pair of reals has to begin at an even place to be a complex number.
        in_order = sorted(tensors.items(), key=lambda item: not item[1].is_complex())
        self._tensors = {name: tensor for name, tensor in in_order if name in moving}
        self._settings = settings
        sizes = [as_real(tensor).numel() for tensor in self._tensors.values()]
        ends = list(itertools.accumulate(sizes))
        self.slices = {
            name: slice(end - size, end)
            for name, size, end in zip(self._tensors, sizes, ends, strict=True)
        }
        centre_M = self._flatten(list(self._tensors.values()))
        self._moved_M = centre_M.clone()
        for name, view in self.views(self._moved_M).items():
            self._tensors[name].data = view
        tensors_of_all = (t for direction in directions.values() for t in direction.values())
        count = len(next(tensors_of_all)) if repeats else 1
        by_repeat = [
            [self._flat(d, repeat if repeats else None) for d in directions.values()]
            for repeat in range(count)
        ]
        self.vectors = Vectors(centre_M, by_repeat, steps or (lambda cell: (cell.alpha, cell.beta)))

    def _flat(self, direction: Mapping[str, Tensor], repeat: int | None) -> Tensor:
        """Return a direction as a vector; what it does not name stays where it is."""
        at = ... if repeat is None else repeat
        components = [
            direction[name][at] if name in direction else torch.zeros(like.shape, dtype=like.dtype)
            for name, like in self._tensors.items()
        ]
        return self._flatten(components)

    def displace(self, cell: Cell) -> None:
        """Set the parameters to those of a cell."""
        self.vectors.displace(cell, self._moved_M)

    def views(self, vector_M: Tensor) -> dict[str, Tensor]:
        """Return a vector's numbers by name, in the parameters' shapes."""
        views = {}
        for name, at in self.slices.items():
            like = self._tensors[name]
            if like.ndim == 4 and self._settings.channels_last:
                filters, channels, height, width = like.shape
                rows = vector_M[at].view(filters, height, width, channels)
                views[name] = rows.permute(0, 3, 1, 2)
            else:
                views[name] = like_kind(vector_M[at], like)
        return views

    def factors(self, scales: Mapping[str, Tensor]) -> Tensor:
        """Return, for every number that moves, the scale of its filter, from (F,) by name."""
        shaped = [
            scale.view(-1, *[1] * (self._tensors[n].ndim - 1)).expand(self._tensors[n].shape)
            for n, scale in scales.items()
        ]
        return self._flatten(shaped)

    def _flatten(self, tensors: Sequence[Tensor]) -> Tensor:
        """Join tensors, in the order in memory that `views` expects; complex ones as pairs."""
        settings = self._settings
        last = settings.channels_last
        pieces = [t.permute(0, 2, 3, 1) if t.ndim == 4 and last else t for t in tensors]
        real = [as_real(p.resolve_conj()) for p in pieces]
        flat = [p.reshape(-1).to(settings.device, settings.dtype) for p in real]
        return torch.cat(flat) if flat else torch.zeros(0, device=settings.device)


def in_precision(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return real and complex numbers in a precision; integers, such as tokens, as they are."""
    return tensor.to(dtype_like(tensor, dtype)) if can_move(tensor) else tensor
