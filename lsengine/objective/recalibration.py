"""Running statistics measured anew at displaced weights, for ``batch_norm: recalibrated``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lsengine import data as datasets
from lsengine.data import nesting
from lsengine.data.nesting import Nested
from lsengine.errors import UsageError
from lsengine.models.layers import BatchNorm, statistics_modules
from lsengine.objective.batches import Batches
from lsengine.objective.device_state import EvaluationSettings
from lsengine.objective.forward import ForwardPass


def calibration_batches(dataset: datasets.Dataset, settings: EvaluationSettings) -> list[Nested]:
    """Draw the batches with which statistics are measured; none for other policies.

    Raises:
        UsageError: If they are needed and the data have no training split.
    """
    if settings.batch_norm != "recalibrated":
        return []
    if "train" not in dataset.splits:
        raise UsageError("batch_norm: recalibrated needs the train split in data.splits")
    samples, batch_size = settings.recalibration
    generator = torch.Generator().manual_seed(settings.seed)
    split, of = dataset.splits["train"], Batches.of(dataset, whole=settings.judges_batches)
    drawn = torch.randperm(len(split), generator=generator)[:samples]
    ready = of.ready(of.raw(split.part(drawn)), settings.dtype)
    batches = nesting.split(ready, batch_size)
    if len(batches) > 1 and nesting.count(batches[-1]) < batch_size:
        batches = batches[:-1]  # a smaller batch would weigh as much as a full one
    return [nesting.mapped(lambda t: t.to(settings.device), batch) for batch in batches]


def recalibrate(
    model: nn.Module,
    forward: ForwardPass,
    batches: Sequence[Nested],
    tick: Callable[[], None] = lambda: None,
) -> None:
    """Set running statistics to the plain average over some batches.

    Of every module that has some: torch's own, and a user's with ``running_mean`` or
    ``running_var``, and ``momentum``, whose update is ``old + momentum * (new - old)``.

    Not by torch's ``update_bn``: it puts the whole model into training mode, dropout included.

    Raises:
        UsageError: If a user's own module cannot be averaged that way.
    """
    layers: list[Any] = statistics_modules(model)
    own = [layer for layer in layers if not isinstance(layer, BatchNorm)]
    _refuse_without_momentum(own)
    before = [(layer, layer.momentum, layer.training) for layer in layers]
    try:
        for layer in layers:
            layer.training = True  # of this module alone: a dropout in it stays off
            if isinstance(layer, BatchNorm):
                layer.reset_running_stats()
                layer.momentum = None  # cumulative average
        _refuse_other_rules(own, forward, batches[0])
        for number, batch in enumerate(batches, 1):
            tick()
            for layer in own:
                layer.momentum = 1 / number
            forward(batch)
    finally:
        for layer, momentum, training in before:
            layer.momentum, layer.training = momentum, training


def _statistics(layer: nn.Module) -> list[Tensor]:
    named = dict(layer.named_buffers(recurse=False))
    return [named[name] for name in ("running_mean", "running_var") if name in named]


def _refuse_without_momentum(layers: Sequence[nn.Module]) -> None:
    for layer in layers:
        if not isinstance(getattr(layer, "momentum", None), float | int):
            raise UsageError(
                f"batch_norm: recalibrated cannot measure the statistics of "
                f"{type(layer).__name__}, which has running statistics, but no momentum that is a "
                "number; use frozen or interpolated"
            )


def _refuse_other_rules(layers: Sequence[Any], forward: ForwardPass, batch: Nested) -> None:
    """Refuse modules whose statistics are not those of a batch after it, at momentum 1.

    Torch's own are known to be.
    """
    layers = [layer for layer in layers if not type(layer).__module__.startswith("torch.")]
    if not layers:
        return
    seen = []
    for start in (0.0, 1.0):
        for layer in layers:
            layer.momentum = 1.0
            for statistics in _statistics(layer):
                statistics.fill_(start)
        forward(batch)
        seen.append([torch.cat([t.flatten() for t in _statistics(layer)]) for layer in layers])
    for layer, first, second in zip(layers, *seen, strict=True):
        if not torch.allclose(first, second, atol=1e-6):
            raise UsageError(
                f"batch_norm: recalibrated cannot measure the statistics of "
                f"{type(layer).__name__}: at momentum 1 they are not those of the last batch; "
                "use frozen or interpolated"
            )
