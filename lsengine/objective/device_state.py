"""What is resident on the device: the numbers that move, as one vector, and the data in batches.

Shape suffixes: N samples, M numbers that move, G cells.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lsengine import data as datasets
from lsengine.curvature import LanczosOptions, Way
from lsengine.errors import UsageError
from lsengine.geometry.parameters import as_real, can_move, dtype_like, like_kind
from lsengine.objective.losses import SampleLosses
from lsengine.surface.grid import Cell

Steps = Callable[[Cell], Sequence[float]]
Directions = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSettings:
    """How cells are evaluated; all of it is recorded in the surface file.

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
        accuracy: Whether to tell which samples of classes are right.
        products_by: The way of products with Hessians, if it is known; else it is found out.
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
    accuracy: bool = True
    products_by: Way | None = None

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


class Batch(NamedTuple):
    """Samples of a split, and room for what a cell makes of them.

    Attributes:
        inputs: In the precision of the forward pass.
        targets: Where losses are computed.
        losses: Room for the samples' losses, float64 (N,).
        hits: Room for whether each is classified rightly, float64 (N,); None without classes.
    """

    inputs: Tensor
    targets: Tensor
    losses: Tensor
    hits: Tensor | None


class ResidentSplit:
    """One split on the device, cut into batches.

    Attributes:
        batches: The split in order.
        has_classes: Whether there are hits.
        has_bars: Whether the loss was one number per sample; a mean has no error bar.
    """

    def __init__(self, dataset: datasets.Dataset, name: str, settings: EvaluationSettings) -> None:
        self._dataset, self._name, self._settings = dataset, name, settings
        self._inputs_N = in_precision(self._normalized(), settings.compute_dtype)
        # MPS has no float64: there, losses are computed on the host.
        host = torch.device("cpu") if settings.device.type == "mps" else settings.device
        targets = dataset.splits[name].y.to(host)
        self._targets_N = in_precision(targets, torch.float64)
        self._losses_N = torch.empty(len(self._inputs_N), dtype=torch.float64, device=host)
        self.has_classes = dataset.classes is not None and settings.accuracy
        self._hits_N = torch.empty_like(self._losses_N) if self.has_classes else None
        self._weights_N: Tensor | None = None
        self.has_bars = True
        self.cut(settings.batch_size)

    def cut(self, size: int) -> None:
        """Cut the split into batches of another size."""
        tensors = (self._inputs_N, self._targets_N, self._losses_N)
        inputs, targets, losses = (tensor.split(size) for tensor in tensors)
        hits = [None] * len(inputs) if self._hits_N is None else self._hits_N.split(size)
        self.batches = [Batch(*row) for row in zip(inputs, targets, losses, hits, strict=True)]

    def keep(self, batch: Batch, losses: SampleLosses) -> None:
        """Put a batch's losses where `means` looks for them."""
        batch.losses.copy_(losses.values)
        self.has_bars = not losses.is_mean
        if losses.weights is not None:
            if self._weights_N is None:
                self._weights_N = torch.ones_like(self._losses_N)
            start = batch.losses.storage_offset()
            self._weights_N[start : start + len(losses.weights)] = losses.weights

    def slices(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the inputs and targets of the batches, on a CPU of so many samples at once."""
        for inputs, targets, _, _ in self.batches:
            step = size if inputs.device.type == "cpu" else len(inputs)
            yield from zip(inputs.split(step), targets.split(step), strict=True)

    def samples(self, indices: Sequence[int], exact: bool) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of some samples; ``exact``: in the precision of weights."""
        inputs = self._normalized() if exact else self._inputs_N
        chosen = torch.as_tensor(indices)
        inputs = inputs[chosen.to(inputs.device)]
        if inputs.ndim == 4 and self._settings.channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return inputs, self._targets_N[chosen.to(self._targets_N.device)]

    def exact_inputs(self) -> Sequence[Tensor]:
        """Return the batches' inputs in the precision of the weights, made anew if need be."""
        if self._settings.compute_dtype == self._settings.dtype:
            return [batch.inputs for batch in self.batches]
        return list(torch.split(self._normalized(), len(self.batches[0].inputs)))

    def _normalized(self) -> Tensor:
        settings = self._settings
        inputs = datasets.normalized(self._dataset, self._name, settings.dtype).to(settings.device)
        if inputs.ndim == 4 and settings.channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return inputs

    def means(self) -> dict[str, float]:
        """Return loss, its standard error and accuracy; the cell's one transfer."""
        hits_1N = None if self._hits_N is None else self._hits_N[None]
        return self.means_of(self._losses_N[None], hits_1N, self._weights_N)[0]

    def means_of(
        self, losses_GN: Tensor, hits_GN: Tensor | None, weights_N: Tensor | None = None
    ) -> list[dict[str, float]]:
        """Return loss, its standard error and accuracy of each cell, in one transfer.

        The standard error of a weighted mean is that of a ratio of sums over samples (Cochran
        1977, Sampling Techniques, section 6.3).
        """
        count = losses_GN.shape[1]
        if weights_N is None:
            mean_G = _sum(losses_GN) / count
            spread_G = _sum((losses_GN - mean_G[:, None]).square())
            bar_G = (spread_G / max(1, count - 1) / count).sqrt()
        else:
            total = _sum(weights_N[None])
            if not float(total):
                raise UsageError(f"loss: the weights of all {count} {self._name} samples are 0")
            mean_G = _sum(losses_GN * weights_N) / total
            spread_G = _sum(((losses_GN - mean_G[:, None]) * weights_N).square())
            bar_G = (spread_G * count / max(1, count - 1)).sqrt() / total
        columns = [mean_G, bar_G if self.has_bars else torch.full_like(bar_G, math.nan)]
        if hits_GN is not None:
            columns.append(_sum(hits_GN) / count)
        names = [f"{self._name}_{n}" for n in ("loss", "loss_se", "accuracy")]
        rows = torch.stack(columns, 1).tolist()
        return [dict(zip(names, row, strict=False)) for row in rows]


def in_precision(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return real and complex numbers in a precision; integers, such as tokens, as they are."""
    return tensor.to(dtype_like(tensor, dtype)) if can_move(tensor) else tensor


def _sum(values_GN: Tensor) -> Tensor:
    """Sum rows in blocks of fixed size, so that the number of threads cannot change a bit."""
    padding = -values_GN.shape[1] % 1024
    blocks = F.pad(values_GN, (0, padding)).view(len(values_GN), -1, 1024)
    return blocks.sum(1).sum(1)
