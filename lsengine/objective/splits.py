"""The data of a run, split by split in batches, and the means of what a cell makes of them.

Shape suffixes: N samples, G cells.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lsengine import data as datasets
from lsengine import devices
from lsengine.errors import UsageError
from lsengine.objective.device_state import EvaluationSettings, in_precision
from lsengine.objective.losses import SampleLosses, labelled
from lsengine.objective.residence import Inputs, Residence, residence
from lsengine.objective.streaming import Paired, PreparedBatches

_BLOCK = 2**26  # bytes of inputs that are made ready at once


class Batch(NamedTuple):
    """What a batch of a split has beside its inputs, and room for what a cell makes of it.

    Attributes:
        targets: Where losses are computed.
        losses: Room for the samples' losses, float64 (N,).
        hits: Room for whether each is classified rightly, float64 (N,); None without classes.
    """

    targets: Tensor
    losses: Tensor
    hits: Tensor | None


class ResidentSplit:
    """One split, cut into batches; all but the inputs is on the device, and they go there.

    Attributes:
        inputs: The batches' inputs in order, in the precision of the forward pass.  To be gone
            through, not to be kept: they may be made while they are asked for.
        batches: The rest of the batches.
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
        self._place = torch.device("cpu") if settings.device.type == "mps" else settings.device
        moments = [m if m is None else m.to(self._place) for m in (dataset.mean, dataset.std)]
        self._scale = replace(dataset, splits={}, mean=moments[0], std=moments[1])
        raw_N = datasets.lone(dataset.splits[name].x)
        self._raw_N = raw_N.to(self._place) if where == "raw" else raw_N
        self._ready_N: dict[torch.dtype, Tensor] = {}
        targets = datasets.lone(dataset.splits[name].y).to(self._place)
        self._targets_N = in_precision(targets, torch.float64)
        self._losses_N = torch.empty(len(raw_N), dtype=torch.float64, device=self._place)
        self.has_classes = dataset.classes is not None and settings.accuracy
        self._hits_N = torch.empty_like(self._losses_N) if self.has_classes else None
        lacks_labels = self.has_classes and dataset.lacks_labels
        self._labelled_N = labelled(targets) if lacks_labels else None
        self._weights_N: Tensor | None = None
        self.has_bars = True
        self.cut(settings.batch_size)

    def cut(self, size: int) -> None:
        """Cut the split into batches of another size."""
        self._size = size
        self.inputs = self._batches(self._settings.compute_dtype)
        targets, losses = (tensor.split(size) for tensor in (self._targets_N, self._losses_N))
        hits = [None] * len(targets) if self._hits_N is None else self._hits_N.split(size)
        self.batches = [Batch(*row) for row in zip(targets, losses, hits, strict=True)]

    def _batches(self, dtype: torch.dtype) -> Sequence[Tensor]:
        """Return the batches' inputs in a precision."""
        stays = dtype == self._settings.compute_dtype or self._settings.curvature is not None
        if self._where == "ready" and stays:
            if dtype not in self._ready_N:
                self._ready_N[dtype] = self._whole(dtype)
            return list(torch.split(self._ready_N[dtype], self._size))
        prepare = partial(self._prepared, dtype=dtype)
        ahead = self._where in ("host", "file") or self._raw_N.device != self._place
        return PreparedBatches(self._raw_N, self._size, prepare, self._place, ahead=ahead)

    def _whole(self, dtype: torch.dtype) -> Tensor:
        """Return all inputs as the network reads them; beside them a block of a few is needed."""
        parts = self._raw_N.split(max(1, _BLOCK * len(self._raw_N) // self._raw_N.nbytes))
        first = self._prepared(parts[0].to(self._place), dtype)
        if len(parts) == 1:
            return first
        whole_N = first.new_empty_strided((len(self._raw_N), *first.shape[1:]), first.stride())
        for room, part in zip(whole_N.split(len(first)), parts, strict=True):
            room.copy_(self._prepared(part.to(self._place), dtype))
        return whole_N

    def _prepared(self, raw: Tensor, dtype: torch.dtype) -> Tensor:
        """Return stored inputs as the network reads them: the same numbers wherever they were."""
        settings = self._settings
        inputs = datasets.standardized(raw, self._scale, settings.dtype)
        inputs = in_precision(inputs, dtype).to(settings.device)
        if inputs.ndim == 4 and settings.channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return inputs

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
        for inputs, batch in zip(self.inputs, self.batches, strict=True):
            step = size if inputs.device.type == "cpu" else len(inputs)
            yield from zip(inputs.split(step), batch.targets.split(step), strict=True)

    def samples(self, indices: Sequence[int], exact: bool) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of some samples; ``exact``: in the precision of weights."""
        chosen = torch.as_tensor(indices)
        raw = self._raw_N[chosen.to(self._raw_N.device)].to(self._place)
        dtype = self._settings.dtype if exact else self._settings.compute_dtype
        return self._prepared(raw, dtype), self._targets_N[chosen.to(self._targets_N.device)]

    def exact_inputs(self) -> Sequence[Tensor]:
        """Return the batches' inputs in the precision of the weights, like ``inputs``."""
        if self._settings.compute_dtype == self._settings.dtype:
            return self.inputs
        return self._batches(self._settings.dtype)

    def exact_batches(self) -> Sequence[tuple[Tensor, Tensor]]:
        """Return the batches' inputs in the precision of the weights, and their targets."""
        return Paired(self.exact_inputs(), [batch.targets for batch in self.batches])

    def means(self) -> dict[str, float]:
        """Return loss, its standard error and accuracy; the cell's one transfer."""
        hits_1N = None if self._hits_N is None else self._hits_N[None]
        return self.means_of(self._losses_N[None], hits_1N, self._weights_N)[0]

    def means_of(
        self, losses_GN: Tensor, hits_GN: Tensor | None, weights_N: Tensor | None = None
    ) -> list[dict[str, float]]:
        """Return loss, its standard error and accuracy of each cell, in one transfer.

        Samples of weight 0 count nowhere, and labels that are none do not count as answers.  The
        standard error of a weighted mean is that of a ratio of sums over samples (Cochran 1977,
        Sampling Techniques, section 6.3).
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
            losses_GN = losses_GN.where(weights_N > 0, 0)  # not a number, perhaps
            mean_G = _sum(losses_GN * weights_N) / total
            spread_G = _sum(((losses_GN - mean_G[:, None]) * weights_N).square())
            bar_G = (spread_G * count / max(1, count - 1)).sqrt() / total
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
        return _sum(hits_GN * labels_N) / _sum(labels_N[None])


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
    for split in dataset.splits.values():
        x = datasets.lone(split.x)
        raw += x.nbytes
        dtypes = {settings.compute_dtype}
        dtypes |= {settings.dtype} if settings.curvature is not None else set()
        for dtype in dtypes if x.dtype != torch.int64 else (torch.int64,):
            is_complex = x.is_complex()
            kind = dtype.to_complex() if is_complex else dtype
            ready += x.numel() * kind.itemsize
    is_mapped = any(split.is_mapped for split in dataset.splits.values())
    return Inputs(ready=ready, raw=raw, is_mapped=is_mapped)


def _sum(values_GN: Tensor) -> Tensor:
    """Sum rows in blocks of fixed size, so that the number of threads cannot change a bit."""
    padding = -values_GN.shape[1] % 1024
    blocks = F.pad(values_GN, (0, padding)).view(len(values_GN), -1, 1024)
    return blocks.sum(1).sum(1)
