"""Where the naive twin looks: at which samples of a split, and at which cell off the centre."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import nn

from lsengine.data import Dataset
from lsengine.job import Job
from lsengine.surface.grid import Cell, Grid

_SAMPLES = ((2 * 10**5, 24), (10**7, 4))  # by the number of parameters; more of them take 3


def draw(job: Job, split: str, dataset: Dataset, model: nn.Module) -> NDArray[np.int64]:
    """Draw the samples of a split, by the seed."""
    parameters = sum(p.numel() for p in model.parameters())
    wanted = next((count for most, count in _SAMPLES if parameters <= most), 3)
    total = len(dataset.splits[split])
    generator = np.random.default_rng([job.document.seed, len(split)])
    return generator.choice(total, min(wanted, total), replace=False).astype(np.int64)


def batch(dataset: Dataset, split: str, size: int) -> NDArray[np.int64]:
    """Return the samples of a split's first batch, and those of its last if that is smaller."""
    total = len(dataset.splits[split])
    last = total - total % size
    first = np.arange(min(size, total))
    return np.concatenate([first, np.arange(max(last, len(first)), total)]).astype(np.int64)


def away(grid: Grid) -> Cell | None:
    """Return the cell nearest the middle between the centre and the end of every axis."""
    at = {}
    for axis in ("alpha", "beta"):
        coordinates = grid.axes.get(axis, np.zeros(1))
        others = coordinates[coordinates != 0]
        if len(others):
            at[axis] = float(others[np.argmin(abs(others - others[np.argmax(abs(others))] / 2))])
    return Cell(at.get("alpha", 0.0), at.get("beta", 0.0)) if at else None
