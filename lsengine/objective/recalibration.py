"""Running statistics measured anew at displaced weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lsengine import data as datasets
from lsengine.errors import UsageError
from lsengine.models.layers import BatchNorm
from lsengine.objective.settings import EvaluationSettings


def calibration_batches(
    dataset: datasets.Dataset, settings: EvaluationSettings
) -> Sequence[Tensor]:
    """Draw the batches with which statistics are measured; none for other policies.

    Raises:
        UsageError: If they are needed and the data have no training split.
    """
    if settings.batch_norm != "recalibrated":
        return []
    if "train" not in dataset.splits:
        raise UsageError("batch_norm: recalibrated needs the train split in data.splits")
    inputs = datasets.normalized(dataset, "train", settings.dtype)
    samples, batch_size = settings.recalibration
    generator = torch.Generator().manual_seed(settings.seed)
    drawn = torch.randperm(len(inputs), generator=generator)[:samples]
    batches = inputs[drawn].split(batch_size)
    if len(batches) > 1 and len(batches[-1]) < batch_size:
        batches = batches[:-1]  # a smaller batch would weigh as much as a full one
    return [b.to(settings.device) for b in batches]


def recalibrate(model: nn.Module, batches: Sequence[Tensor], tick: Callable[[], None]) -> None:
    """Set running statistics to the plain average over some batches.

    Not by torch's ``update_bn``: it puts the whole model into training mode, dropout included.

    Args:
        model: In evaluation mode.
        batches: Inputs; without any the model is left alone.
        tick: Called before every batch; may raise to stop.
    """
    if not batches:
        return
    layers = [m for m in model.modules() if isinstance(m, BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    try:
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # cumulative average
            layer.train()
        for batch in batches:
            tick()
            model(batch)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
            layer.eval()
