"""The data of a run, split by split in batches, and the means of what a cell makes of them.

Shape suffixes: N samples, G cells.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from lsengine import data as datasets
from lsengine import devices
from lsengine.data import nesting
from lsengine.data.nesting import Nested, leaves, mapped
from lsengine.objective.batches import Batches, all_bytes, dtype_as_read
from lsengine.objective.device_state import (
    EvaluationSettings,
    all_in_precision,
    in_precision,
)
from lsengine.objective.losses import SampleLosses, labelled
from lsengine.objective.means import KeptMetrics, Metrics, means_and_bars, sums
from lsengine.objective.residence import Inputs, Residence, residence
from lsengine.objective.streaming import Paired, PreparedBatches

_BLOCK = 2**26  # bytes of inputs that are made ready at once


class Batch(NamedTuple):
    """What a batch of a split has beside its inputs, and room for what a cell makes of it.

    Attributes:
        targets: Where losses are computed; None where an objective gets them with the inputs.
        losses: Room for the samples' losses, float64 (N,).
        hits: Room for whether each is classified rightly, float64 (N,); None without classes.
    """

    targets: Nested | None
    losses: Tensor
    hits: Tensor | None


class ResidentSplit:
    """One split, cut into batches; all but the inputs is on the device, and they go there.

    Attributes:
        inputs: The batches' inputs in order, in the precision of the forward pass.  To be gone
            through, not to be kept: they may be made while they are asked for.
        batches: The rest of the batches.
        place: Where losses are computed, which has float64.
        has_classes: Whether there are hits.
        has_bars: Whether the loss was one number per sample; a mean has no error bar.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        name: str,
        settings: EvaluationSettings,
        where: Residence = "ready",
    ) -> None:
        self._name, self._settings, self._where = name, settings, where
        # MPS has no float64, and no division that rounds as others do: there the host does it.
        self.place = torch.device("cpu") if settings.device.type == "mps" else settings.device
        self._of = Batches.of(dataset, whole=settings.judges_batches).on(self.place)
        split = dataset.splits[name]
        raw_N = self._of.raw(split)
        self._raw_N = self._there(raw_N) if where == "raw" else raw_N
        self._ready_N: dict[torch.dtype, Nested] = {}
        self._targets_N: Nested | None = None
        if split.y is not None and not settings.judges_batches:
            self._targets_N = all_in_precision(self._there(split.y), torch.float64)
        self._losses_N = torch.empty(len(split), dtype=torch.float64, device=self.place)
        self.has_classes = dataset.classes is not None and settings.accuracy
        self._hits_N = torch.empty_like(self._losses_N) if self.has_classes else None
        lacks_labels = self.has_classes and dataset.lacks_labels
        self._labelled_N = labelled(nesting.lone(self._targets_N)) if lacks_labels else None
        self._weights_N: Tensor | None = None
        self._metrics = KeptMetrics(len(split), name)
        self._of_weights = f"{settings.judged_by}: the weights of all {len(split)} {name}"
        self.has_bars = True
        self.cut(settings.batch_size)

    def _there(self, nested: Nested) -> Nested:
        return mapped(lambda tensor: tensor.to(self.place), nested)

    def cut(self, size: int) -> None:
        """Cut the split into batches of another size."""
        self._size = size
        self.inputs = self._batches(self._settings.compute_dtype)
        losses = self._losses_N.split(size)
        absent: list[None] = [None] * len(losses)
        targets = absent if self._targets_N is None else nesting.split(self._targets_N, size)
        hits = absent if self._hits_N is None else self._hits_N.split(size)
        self.batches = [Batch(*row) for row in zip(targets, losses, hits, strict=True)]

    def _batches(self, dtype: torch.dtype) -> Sequence[Nested]:
        """Return the batches' inputs in a precision."""
        stays = dtype == self._settings.compute_dtype or self._settings.curvature is not None
        if self._where == "ready" and stays:
            if dtype not in self._ready_N:
                self._ready_N[dtype] = self._whole(dtype)
            return nesting.split(self._ready_N[dtype], self._size)
        prepare = partial(self._prepared, dtype=dtype)
        is_elsewhere = any(t.device != self.place for _, t in leaves(self._raw_N))
        ahead = self._where in ("host", "file") or is_elsewhere
        return PreparedBatches(self._raw_N, self._size, prepare, self.place, ahead=ahead)

    def _whole(self, dtype: torch.dtype) -> Nested:
        """Return all inputs as the network reads them; beside them a block of a few is needed."""
        count = len(self._losses_N)
        parts = nesting.split(self._raw_N, max(1, _BLOCK * count // all_bytes(self._raw_N)))
        first = self._prepared(self._there(parts[0]), dtype)
        if len(parts) == 1:
            return first
        whole_N = mapped(lambda t: t.new_empty_strided((count, *t.shape[1:]), t.stride()), first)
        for room, part in zip(nesting.split(whole_N, len(parts[0])), parts, strict=True):
            ready = self._prepared(self._there(part), dtype)
            for (_, place), (_, tensor) in zip(leaves(room), leaves(ready), strict=True):
                place.copy_(tensor)
        return whole_N

    def _prepared(self, raw: Nested, dtype: torch.dtype) -> Nested:
        """Return stored inputs as the network reads them: the same numbers wherever they were."""
        settings = self._settings
        inputs = self._of.ready(raw, settings.dtype)
        inputs = mapped(lambda t: in_precision(t, dtype).to(settings.device), inputs)
        if isinstance(inputs, Tensor) and inputs.ndim == 4 and settings.channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return inputs

    @property
    def whole(self) -> Batch:
        """All samples as one batch."""
        return Batch(self._targets_N, self._losses_N, self._hits_N)

    def keep(self, batch: Batch, losses: SampleLosses, metrics: Metrics | None = None) -> None:
        """Put a batch's losses where `means` looks for them, and what else an objective makes."""
        batch.losses.copy_(losses.values)
        self.has_bars = not losses.is_mean
        if losses.weights is not None:
            if self._weights_N is None:
                self._weights_N = torch.ones_like(self._losses_N)
            start = batch.losses.storage_offset()
            self._weights_N[start : start + len(losses.weights)] = losses.weights
        if metrics:
            self._metrics.keep(int(batch.losses.storage_offset()), metrics)

    def slices(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the inputs and targets of the batches, on a CPU of so many samples at once."""
        for inputs, batch in zip(self.inputs, self.batches, strict=True):
            x, y = nesting.lone(inputs), nesting.lone(batch.targets)
            step = size if x.device.type == "cpu" else len(x)
            yield from zip(x.split(step), y.split(step), strict=True)

    def samples(self, indices: Sequence[int], exact: bool) -> tuple[Nested, Nested | None]:
        """Return inputs and targets of some samples; ``exact``: in the precision of weights."""
        chosen = torch.as_tensor(indices)
        raw, targets = (
            None if nested is None else mapped(lambda t: t[chosen.to(t.device)], nested)
            for nested in (self._raw_N, self._targets_N)
        )
        assert raw is not None
        dtype = self._settings.dtype if exact else self._settings.compute_dtype
        return self._prepared(self._there(raw), dtype), targets

    def exact_inputs(self) -> Sequence[Nested]:
        """Return the batches' inputs in the precision of the weights, like ``inputs``."""
        if self._settings.compute_dtype == self._settings.dtype:
            return self.inputs
        return self._batches(self._settings.dtype)

    def exact_batches(self) -> Sequence[tuple[Nested, Nested | None]]:
        """Return the batches' inputs in the precision of the weights, and their targets."""
        return Paired(self.exact_inputs(), [batch.targets for batch in self.batches])

    def means(self) -> dict[str, float]:
        """Return loss, its standard error and accuracy, the cell's one transfer, and metrics."""
        hits_1N = None if self._hits_N is None else self._hits_N[None]
        means = self.means_of(self._losses_N[None], hits_1N, self._weights_N)[0]
        return means | self._metrics.means()

    def means_of(
        self, losses_GN: Tensor, hits_GN: Tensor | None, weights_N: Tensor | None = None
    ) -> list[dict[str, float]]:
        """Return loss, its standard error and accuracy of each cell, in one transfer.

        Samples of weight 0 count nowhere, and labels that are none do not count as answers.
        """
        mean_G, bar_G = means_and_bars(losses_GN, weights_N, self._of_weights)
        columns = [mean_G, bar_G if self.has_bars else torch.full_like(bar_G, math.nan)]
        if hits_GN is not None:
            columns.append(self._share(hits_GN, weights_N))
        names = [f"{self._name}_{n}" for n in ("loss", "loss_se", "accuracy")]
        rows = torch.stack(columns, 1).tolist()
        return [dict(zip(names, row, strict=False)) for row in rows]

    def _share(self, hits_GN: Tensor, weights_N: Tensor | None) -> Tensor:
        """Return the share of labels that are right (G,), of the samples that count."""
        labels_N = torch.ones_like(hits_GN[0]) if self._labelled_N is None else self._labelled_N
        if weights_N is not None:
            labels_N = labels_N.where(weights_N > 0, 0)
        return sums(hits_GN * labels_N) / sums(labels_N[None])


def resident_splits(
    dataset: datasets.Dataset, settings: EvaluationSettings, others: int = 0
) -> tuple[dict[str, ResidentSplit], str]:
    """Return the splits of a run, and in words where their inputs are.

    ``others`` are the bytes that are going to be taken on the device beside data and activations.
    """
    inputs = _inputs(dataset, settings)
    free = devices.free_bytes(settings.device)
    if settings.device.type == "cpu":  # others look at the same moment
        free //= settings.peers
    where = settings.residence or residence(
        inputs, device=settings.device.type, free=free, others=others
    )
    splits = {name: ResidentSplit(dataset, name, settings, where) for name in dataset.splits}
    stored, ready, left = (f"{n / 2**20:,.1f} MiB" for n in (inputs.raw, inputs.ready, free))
    said = f"{where} for {settings.device}: {stored} as stored, {ready} ready, {left} free"
    return splits, said


def _inputs(dataset: datasets.Dataset, settings: EvaluationSettings) -> Inputs:
    """Return what the inputs of a run are made of."""
    raw = ready = 0
    dtypes = {settings.compute_dtype}
    dtypes |= {settings.dtype} if settings.curvature is not None else set()
    batches = Batches.of(dataset, whole=settings.judges_batches)
    for split in dataset.splits.values():
        for _, tensor in leaves(batches.raw(split)):
            raw += tensor.nbytes
            kinds = {dtype_as_read(tensor, dtype) for dtype in dtypes}
            ready += sum(tensor.numel() * kind.itemsize for kind in kinds)
    is_mapped = any(split.is_mapped for split in dataset.splits.values())
    return Inputs(ready=ready, raw=raw, is_mapped=is_mapped)
