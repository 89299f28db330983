"""The samples with which running statistics are measured anew."""

from __future__ import annotations

import torch
from torch import Tensor

from lsengine import data as datasets
from lsengine.errors import UsageError
from lsengine.objective.settings import EvaluationSettings


def recalibration(dataset: datasets.Dataset, settings: EvaluationSettings) -> list[Tensor]:
    """Draw the batches that recalibrate running statistics; none for other policies."""
    if settings.batch_norm != "recalibrated":
        return []
    if "train" not in dataset.splits:
        raise UsageError("batch_norm: recalibrated needs the train split in data.splits")
    inputs = datasets.normalized(dataset, "train", settings.dtype)
    samples, batch_size = settings.recalibration
    generator = torch.Generator().manual_seed(settings.seed)
    chosen = torch.randperm(len(inputs), generator=generator)[:samples]
    batches = inputs[chosen].split(batch_size)
    if len(batches) > 1 and len(batches[-1]) < batch_size:
        batches = batches[:-1]  # a small rest would weigh as much as a whole batch
    return [b.to(settings.device) for b in batches]
