"""From a job to how its network is evaluated, for all who evaluate it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch

from lsengine.curvature import LanczosOptions
from lsengine.data import Dataset
from lsengine.data.nesting import leaves
from lsengine.devices import automatic_batch_size
from lsengine.engine.prepare.selection import selection
from lsengine.job import Job
from lsengine.objective import EvaluationSettings

# What some callers leave out, on purpose; they say why.
BATCH_NORM = frozenset({"batch_norm", "recalibration", "seed"})
CURVATURE = frozenset({"curvature", "curvature_of", "curvature_of_moved"})


def evaluation_settings(
    job: Job,
    device: torch.device,
    *,
    precision: str,
    batch_size: int,
    without: Collection[str] = (),
) -> EvaluationSettings:
    """Return how a job, which may leave precision and batch size open, wants a network evaluated.

    In the fields ``without``, such as `BATCH_NORM`, the job is not followed.  They keep the
    defaults of `EvaluationSettings`: running statistics stay as they are in the network, and no
    eigenvalues are looked for.
    """
    document = job.document
    fields: dict[str, Any] = {
        "batch_norm": document.batch_norm.policy,
        "recalibration": (document.batch_norm.samples, document.batch_norm.batch_size),
        "seed": document.seed,
        "compiles": document.compile,
        "fuses": document.model.fuses and document.objective is None,
        "curvature": lanczos_options(job) if "curvature" in document.quantities else None,
        "accuracy": "accuracy" in document.quantities and document.objective is None,
        "judges_batches": document.objective is not None,
        "keeps_batches": document.objective is not None and document.batch_size != "auto",
        "tf32_products": document.curvature.precision == "tf32",
        "curvature_of": selection(document.curvature),
        "curvature_of_moved": document.curvature.parameters == "moved",
    }
    followed = {name: value for name, value in fields.items() if name not in without}
    return EvaluationSettings(device=device, precision=precision, batch_size=batch_size, **followed)


def lanczos_options(job: Job) -> LanczosOptions:
    """Return how hard a job looks for eigenvalues."""
    asked = job.document.curvature.model_dump(include={"tolerance", "max_products", "basis"})
    return LanczosOptions(**asked, seed=job.document.seed)


def batch_size(job: Job, sample_shape: Sequence[int], device_kind: str, memory: int = 0) -> int:
    """Return the job's batch size, or where it leaves it open one by arithmetic.

    ``device_kind`` begins with the type of the device, such as ``cuda``; ``memory`` is that of a
    card, in bytes.
    """
    if job.document.batch_size == "auto":
        return automatic_batch_size(sample_shape, device_kind.partition(" ")[0], memory)
    return job.document.batch_size


def sample_shape(dataset: Dataset) -> tuple[int, ...]:
    """Return the shape of a sample of the data, (C, ...)."""
    split = next(iter(dataset.splits.values()))
    return tuple(max((t for _, t in leaves(split.x)), key=torch.Tensor.numel).shape[1:])
