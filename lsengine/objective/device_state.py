"""What moves, as one vector on the device, and how cells are evaluated.

Shape suffix: M numbers that move.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lsengine import devices
from lsengine.curvature import LanczosOptions, Way, krylov_bytes
from lsengine.data import Dataset
from lsengine.data.nesting import Nested, mapped
from lsengine.geometry.parameters import as_real, can_move, dtype_like, like_kind
from lsengine.models.layers import BatchNorm
from lsengine.objective.placement import Hosted, Weights, placement
from lsengine.objective.residence import Residence
from lsengine.objective.vectors import Blocked, Steps, host_rooms, in_blocks, vectors_of
from lsengine.surface.grid import Cell
from lsengine.surface.parts import EVERYTHING, Selection

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
        curvature_of: The parameters that count for it, if they are trainable.
        curvature_of_moved: Whether only the parameters that move count, or all.
        tf32_products: Whether products with Hessians may round their factors as tf32 does.
        accuracy: Whether to tell which samples of classes are right.
        judges_batches: Whether an objective judges network and batch, and not a loss its outputs.
        at_once: Whether the loss, which is one number, is taken of all outputs of a split.
        keeps_batches: Whether batches keep their size where memory runs out, as values may depend
            on it.
        products_by: The way of products with Hessians, if it is known; else it is found out.
        peers: Processes that share the memory of this host in the same way, this one included.
        residence: Where inputs are; by default what fits into the memory that is free.
        hosted: Which vectors are in the host's memory; by default those that do not fit.
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
    curvature_of: Selection = EVERYTHING
    curvature_of_moved: bool = False
    tf32_products: bool = False
    accuracy: bool = True
    judges_batches: bool = False
    keeps_batches: bool = False
    at_once: bool = False
    products_by: Way | None = None
    peers: int = 1
    residence: Residence | None = None
    hosted: Hosted | None = None

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of weights, and of data for everything but cells' own forward passes."""
        return torch.float64 if self.precision == "float64" else torch.float32

    def of_data(self, dataset: Dataset) -> EvaluationSettings:
        """Return the same without fusing where layers of ours do not call the network."""
        is_plain = all(isinstance(split.x, Tensor) for split in dataset.splits.values())
        return self if is_plain and not self.judges_batches else replace(self, fuses=False)

    @property
    def judged_by(self) -> str:
        """The key of the job that says what losses are."""
        return "objective" if self.judges_batches else "loss"

    @property
    def compute_dtype(self) -> torch.dtype:
        """The dtype of activations in a cell's forward pass."""
        fast = {"bfloat16": torch.bfloat16, "float16": torch.float16}
        return fast.get(self.precision, self.dtype)


def weights_of(
    model: nn.Module, names: Collection[str], count: int, settings: EvaluationSettings
) -> Weights:
    """Return what a run keeps of a network of which ``names`` move along ``count`` directions."""
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    sizes = {name: as_real(tensor).numel() for name, tensor in tensors.items() if can_move(tensor)}
    is_exact, dtype = settings.dtype == torch.float64, settings.dtype
    is_fused = settings.fuses and not settings.compiles and not is_exact
    trainable = sum(as_real(parameter).numel() for parameter in model.parameters())
    curved = settings.curvature
    return Weights(
        moving=sum(size for name, size in sizes.items() if name in names),
        network=sum(sizes.values()),
        directions=count,
        width=dtype.itemsize,
        compute_width=settings.compute_dtype.itemsize,
        is_copied=is_fused or settings.compiles or settings.compute_dtype != dtype,
        is_fused=is_fused,
        is_folded=is_fused and any(isinstance(m, BatchNorm) for m in model.modules()),
        others=krylov_bytes(trainable, dtype, curved.basis) if curved is not None else 0,
    )


def placed(weights: Weights, device: torch.device) -> tuple[Hosted, str]:
    """Return which vectors do not fit on a device, and all sizes in words; as `placement` does."""
    free_host = devices.free_host_bytes()
    free = devices.free_bytes(device) if device.type == "cuda" else free_host
    hosted = placement(weights, device=device.type, free=free, free_host=free_host)
    return hosted, weights.said(hosted, str(device), free)


def with_place(
    settings: EvaluationSettings, model: nn.Module, directions: Directions, *, repeats: bool
) -> tuple[EvaluationSettings, int]:
    """Settle which vectors stay in the host's memory, and bring the model to the device if none.

    Returns the settings, and the bytes that are still going to be taken on the device.
    """
    moving = {name for of_axis in directions.values() for name in of_axis}
    tensors = (t for of_axis in directions.values() for t in of_axis.values())
    count = len(directions) * (len(next(tensors)) if repeats else 1)
    weights = weights_of(model, moving, count, settings)
    hosted = settings.hosted or placed(weights, settings.device)[0]
    others = sum(weights.on_device(hosted).values())
    if hosted == "none":  # else the numbers that move go there by themselves
        model.to(settings.device)
        others -= weights.network * weights.width
    return replace(settings, hosted=hosted), others


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
        self._count = sum(sizes)
        steps = steps or (lambda cell: (cell.alpha, cell.beta))
        centre = self._kept(list(self._tensors.values()), settings.hosted == "all")
        self._moved_M = self._empty()
        in_blocks(centre.blocks, [self._moved_M])
        for name, view in self.views(self._moved_M).items():
            self._tensors[name].data = view
        tensors_of_all = (t for direction in directions.values() for t in direction.values())
        count = len(next(tensors_of_all)) if repeats else 1
        on_host = settings.hosted not in (None, "none")
        by_repeat = [
            [
                self._kept(self._along(d, r if repeats else None), on_host)
                for d in directions.values()
            ]
            for r in range(count)
        ]
        self.vectors = vectors_of(centre, by_repeat, steps, settings.device)

    def _along(self, direction: Mapping[str, Tensor], repeat: int | None) -> list[Tensor]:
        """Return a direction by tensor; what it does not name stays where it is."""
        at = ... if repeat is None else repeat
        return [
            direction[name][at] if name in direction else torch.zeros(like.shape, dtype=like.dtype)
            for name, like in self._tensors.items()
        ]

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
        factor_M = self._empty()
        in_blocks(self._flat(shaped), [factor_M])
        return factor_M

    def _empty(self) -> Tensor:
        settings = self._settings
        return torch.empty(self._count, dtype=settings.dtype, device=settings.device)

    def _kept(self, tensors: Sequence[Tensor], on_host: bool) -> Blocked:
        """Join tensors, as `views` expects them, on the device in one block."""
        if on_host:
            is_card, dtype = self._settings.device.type == "cuda", self._settings.dtype
            blocks = host_rooms(self._count, dtype, pinned=is_card)
        else:
            blocks = [self._empty()]
        in_blocks(self._flat(tensors), blocks)
        return Blocked(blocks, on_host)

    def _flat(self, tensors: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield tensors in the order in memory that `views` expects; complex ones as pairs."""
        for tensor in tensors:
            is_last = tensor.ndim == 4 and self._settings.channels_last
            piece = tensor.permute(0, 2, 3, 1) if is_last else tensor
            yield as_real(piece.resolve_conj()).reshape(-1)


def in_precision(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return real and complex numbers in a precision; integers, such as tokens, as they are."""
    return tensor.to(dtype_like(tensor, dtype)) if can_move(tensor) else tensor


def all_in_precision(nested: Nested, dtype: torch.dtype) -> Nested:
    """Return a nesting with each tensor as `in_precision` does it."""
    return mapped(lambda tensor: in_precision(tensor, dtype), nested)
