"""The names of the quantities that a job asks for."""

from __future__ import annotations

from lsengine import data
from lsengine.curvature import cells
from lsengine.job import Job


def quantity_names(job: Job, dataset: data.Dataset) -> list[str]:
    """Return the names of the quantities' datasets, split by split."""
    kinds = []
    if "loss" in job.document.quantities:
        kinds += ["loss", "loss_se"]
    if "accuracy" in job.document.quantities and dataset.classes is not None:
        kinds += ["accuracy"]
    names = [f"{split}_{kind}" for split in dataset.splits for kind in kinds]
    return names + list(cells.NAMES if "curvature" in job.document.quantities else ())


def trajectory_quantity_names(job: Job, dataset: data.Dataset) -> list[str]:
    """Return the names of a checkpoint's quantities: its own, and those of the plane under it."""
    names = [name for name in quantity_names(job, dataset) if name not in cells.NAMES]
    return names + [f"plane_{name}" for name in names if not name.endswith("_se")]
