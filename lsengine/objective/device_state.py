"""What is resident on the device: the numbers that move, as one vector, and the data in batches.

Shape suffixes: N samples, M numbers that move, G cells.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lsengine import data as datasets
from lsengine.objective.settings import EvaluationSettings
from lsengine.surface.grid import Cell

Steps = Callable[[Cell], Sequence[float]]
Directions = Mapping[str, Mapping[str, Tensor]]


class Vectors:
    """Centre and directions, each a vector of all numbers that move.

    Attributes:
        centre_M: The vector at the centre.
        steps: How far a cell lies along each direction.
    """

    def __init__(self, centre_M: Tensor, directions: Sequence[Sequence[Tensor]]) -> None:
        self.centre_M, self._directions = centre_M, directions
        self.steps: Steps = lambda cell: (cell.alpha, cell.beta)

    def displace(self, cell: Cell, out_M: Tensor) -> None:
        """Set a vector to ``centre + alpha * d1 + beta * d2``, or by other steps."""
        start_M = self.centre_M
        pairs = zip(self.steps(cell), self._directions[cell.repeat], strict=False)
        for step, direction_M in pairs:
            if step:  # an infinite weight times a zero step would be NaN
                start_M = torch.add(start_M, direction_M, alpha=step, out=out_M)
        if start_M is self.centre_M:
            out_M.copy_(start_M)

    def times(self, factor_M: Tensor) -> Vectors:
        """Return the same cells with every number multiplied by a factor of its own."""
        directions = [[d_M * factor_M for d_M in of_repeat] for of_repeat in self._directions]
        scaled = Vectors(self.centre_M * factor_M, directions)
        scaled.steps = self.steps
        return scaled


class FlatParameters:
    """All numbers that move, as one vector the model's parameters are views of.

    Attributes:
        names: Of what moves.
        places: Where the numbers of each are in the vector.
        vectors: Centre and directions.
    """

    def __init__(
        self, model: nn.Module, directions: Directions, settings: EvaluationSettings, repeats: bool
    ) -> None:
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        moved = {name for d in directions.values() for name in d}
        self.names = names = [name for name in tensors if name in moved]
        self._settings = settings
        centre_M = _flatten([tensors[n] for n in names], settings)
        self._moved_M = centre_M.clone()
        ends = itertools.accumulate(tensors[name].numel() for name in names)
        self.places = {
            n: slice(e - tensors[n].numel(), e) for n, e in zip(names, ends, strict=True)
        }
        self._tensors = {name: tensors[name] for name in names}
        for name, view in self.views(self._moved_M).items():
            tensors[name].data = view
        count = next(len(t) for t in directions["alpha"].values()) if repeats else 1
        directions_RA: list[list[Tensor]] = []
        for repeat in range(count):
            pieces = [
                [_component(d, n, tensors[n], repeat if repeats else None) for n in names]
                for d in directions.values()
            ]
            directions_RA.append([_flatten(p, settings) for p in pieces])
        self.vectors = Vectors(centre_M, directions_RA)

    def displace(self, cell: Cell) -> None:
        """Set the parameters to those of a cell."""
        self.vectors.displace(cell, self._moved_M)

    def views(self, vector_M: Tensor) -> dict[str, Tensor]:
        """Return a vector's numbers by name, in the parameters' shapes."""
        return {
            name: _unflatten(vector_M[place], self._tensors[name].shape, self._settings)
            for name, place in self.places.items()
        }

    def factors(self, scales: Mapping[str, Tensor]) -> Tensor:
        """Return, for every number that moves, the scale of its filter.

        Args:
            scales: By name, (F,) each.
        """
        shaped = [
            scale.view(-1, *[1] * (self._tensors[n].ndim - 1)).expand(self._tensors[n].shape)
            for n, scale in scales.items()
        ]
        return _flatten(shaped, self._settings)


def _component(
    direction: Mapping[str, Tensor], name: str, like: Tensor, repeat: int | None
) -> Tensor:
    if name not in direction:
        return torch.zeros_like(like, device="cpu", dtype=torch.float32)
    return direction[name] if repeat is None else direction[name][repeat]


def _flatten(tensors: Sequence[Tensor], settings: EvaluationSettings) -> Tensor:
    """Join tensors, in the order in memory that `_unflatten` expects."""
    last = settings.channels_last
    pieces = [t.permute(0, 2, 3, 1) if t.ndim == 4 and last else t for t in tensors]
    flat = [p.reshape(-1).to(settings.device, settings.dtype) for p in pieces]
    return torch.cat(flat) if flat else torch.zeros(0, device=settings.device)


def _unflatten(view: Tensor, shape: torch.Size, settings: EvaluationSettings) -> Tensor:
    if len(shape) != 4 or not settings.channels_last:
        return view.view(shape)
    filters, channels, height, width = shape
    return view.view(filters, height, width, channels).permute(0, 3, 1, 2)


class ResidentSplit:
    """One split on the device, cut into batches, with room for each sample's loss.

    Attributes:
        batches: Inputs, targets, and room for losses and hits.
        has_bars: Whether the loss was one number per sample; a mean has no error bar.
    """

    def __init__(self, dataset: datasets.Dataset, name: str, settings: EvaluationSettings) -> None:
        self._dataset, self._name, self._settings = dataset, name, settings
        self._inputs_N = self._normalized().to(settings.compute_dtype)
        # MPS has no float64: there, losses are computed on the host.
        where = torch.device("cpu") if settings.device.type == "mps" else settings.device
        targets = dataset.splits[name].y.to(where)
        if targets.is_floating_point():
            targets = targets.double()
        self._losses_N = torch.empty(len(self._inputs_N), dtype=torch.float64, device=where)
        is_class = dataset.classes is not None
        self._hits_N = torch.empty_like(self._losses_N) if is_class else None
        self.has_bars = True
        self._targets_N = targets
        self.cut(settings.batch_size)

    def cut(self, size: int) -> None:
        """Cut the split into batches of another size."""
        hits = self._hits_N.split(size) if self._hits_N is not None else None
        whole = (self._inputs_N, self._targets_N, self._losses_N)
        pieces = [tensor.split(size) for tensor in whole]
        self.batches = [
            (x, y, loss, hits[i] if hits else None)
            for i, (x, y, loss) in enumerate(zip(*pieces, strict=True))
        ]

    def slices(self, size: int) -> Iterator[tuple[Tensor, Tensor, bool]]:
        """Yield the inputs and targets of the batches, and whether hits count.

        Args:
            size: Cut batches of a CPU into slices of so many samples.
        """
        has_hits = self._hits_N is not None
        for inputs, targets, _, _ in self.batches:
            step = size if inputs.device.type == "cpu" else len(inputs)
            for x, y in zip(inputs.split(step), targets.split(step), strict=True):
                yield x, y, has_hits

    def exact_inputs(self) -> Sequence[Tensor]:
        """Return the batches' inputs in the precision of the weights, made anew if need be."""
        if self._settings.compute_dtype == self._settings.dtype:
            return [batch[0] for batch in self.batches]
        return list(torch.split(self._normalized(), len(self.batches[0][0])))

    def _normalized(self) -> Tensor:
        settings = self._settings
        inputs = datasets.normalized(self._dataset, self._name, settings.dtype)
        inputs = inputs.to(settings.device)
        if inputs.ndim == 4 and settings.channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return inputs

    def means(self) -> list[tuple[str, float]]:
        """Return loss, its standard error and accuracy; the cell's one transfer."""
        hits_1N = None if self._hits_N is None else self._hits_N[None]
        return self.means_of(self._losses_N[None], hits_1N)[0]

    def means_of(self, losses_GN: Tensor, hits_GN: Tensor | None) -> list[list[tuple[str, float]]]:
        """Return loss, its standard error and accuracy of each cell, in one transfer."""
        count = losses_GN.shape[1]
        mean_G = _sum(losses_GN) / count
        spread_G = _sum((losses_GN - mean_G[:, None]).square())
        bar_G = (spread_G / max(1, count - 1) / count).sqrt()
        columns = [mean_G, bar_G if self.has_bars else torch.full_like(bar_G, math.nan)]
        if hits_GN is not None:
            columns.append(_sum(hits_GN) / count)
        names = ("loss", "loss_se", "accuracy")
        rows = torch.stack(columns, 1).tolist()
        return [list(zip(names, row, strict=False)) for row in rows]


def _sum(values_GN: Tensor) -> Tensor:
    """Sum rows in blocks of fixed size, so that the number of threads cannot change a bit."""
    padding = -values_GN.shape[1] % 1024
    blocks = F.pad(values_GN, (0, padding)).view(len(values_GN), -1, 1024)
    return blocks.sum(1).sum(1)
