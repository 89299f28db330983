"""The height of the barrier between two minima, along a curve and along the line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsengine import store
from lsengine.devices import device_of
from lsengine.engine import prepare
from lsengine.errors import CellsFailed
from lsengine.geometry import curve
from lsengine.job import Job
from lsengine.models import checkpoint
from lsengine.objective import EvaluationSettings, Objective
from lsengine.objective.losses import loss_function
from lsengine.ranks import available_cores
from lsengine.store import lock
from lsengine.training import training


@dataclass(frozen=True, slots=True)
class Barrier:
    """What one of the two ways costs, by loss, such as ``train_loss``.

    Attributes:
        way: ``curve`` or ``line``.
        path: Its surface.
        ends: Losses of both ends as points of the way, (2,).
        own: Losses of both with the running statistics of their checkpoints, (2,).
        highest: The highest loss of the way.
        heights: Height of the barrier.
    """

    way: str
    path: Path
    ends: Mapping[str, NDArray[np.float64]]
    own: Mapping[str, NDArray[np.float64]]
    highest: Mapping[str, float]
    heights: Mapping[str, float]


def measure_barriers(jobs: Sequence[Job]) -> list[Barrier]:
    """Measure both `ways` on their finished surfaces, and note in them what is found."""
    surfaces = [store.read(job.output) for job in jobs]
    for surface in surfaces:
        if not surface.done.all():
            raise CellsFailed(f"{surface.source}: is not complete; its barrier is not known")
    names = [name for name in ("train_loss", "test_loss") if name in surfaces[0].quantities]
    own = _own_losses(jobs[0], surfaces[0].attributes, names)
    found = []
    for way, job, surface in zip(("curve", "line"), jobs, surfaces, strict=True):
        losses = {name: surface.quantities[name] for name in names}
        heights = {n: curve.barrier(v, surface.axes["alpha"]) for n, v in losses.items()}
        noted: dict[str, Any] = {f"{name}_barrier": height for name, height in heights.items()}
        noted |= {f"{name}_ends": ends for name, ends in own.items()}
        known = surface.attributes
        if not all(n in known and np.array_equal(known[n], v) for n, v in noted.items()):
            with lock.held(job.output, lost=lambda: None):
                store.amend(job.output, noted)
        ends = {name: values[[0, -1]] for name, values in losses.items()}
        highest = {name: float(values.max()) for name, values in losses.items()}
        found.append(Barrier(way, job.output, ends, own, highest, heights))
    return found


def _own_losses(
    job: Job, known: Mapping[str, Any], names: Sequence[str]
) -> dict[str, NDArray[np.float64]]:
    """Return the losses of both ends with their own running statistics.

    Args:
        job: Of one of the two surfaces.
        known: The attributes of its file, which may have them from an earlier run.
        names: The losses wanted.
    """
    if all(f"{name}_ends" in known for name in names):
        return {name: known[f"{name}_ends"] for name in names}
    settings = job.document.curve
    assert settings is not None
    with training.deterministic_torch(job, training.DeviceSlot(0, len(available_cores()))):
        loaded = prepare.load(job)
        objective = Objective(
            loaded.model,
            loaded.dataset,
            loss_function(job.document.loss, job_folder=job.source.parent),
            {},  # no direction: nothing moves
            EvaluationSettings(
                device=device_of(job.document.device, 0),
                precision=str(known["precision"]),
                batch_size=int(known["batch_size"]),
                channels_last=not job.document.model.is_own,
            ),
        )
        first, other = (
            objective.losses_of(
                partial(checkpoint.fit, checkpoint=checkpoint.load(p, key=k), key=k)
            )
            for p, k in ((job.checkpoint, "model.checkpoint"), (job.path(settings.to), "curve.to"))
        )
    return {name: np.array([first[name], other[name]]) for name in names}


def barrier_table(barriers: Sequence[Barrier]) -> str:
    """Return what the ways cost, for a person: a line for each, and one for the ends alone."""
    titles = ("first end", "other end", "highest", "barrier")
    lines = [f"{b.way}: {b.path}" for b in barriers]
    lines.append(" " * 20 + "".join(f"{title:>12}" for title in titles))
    for name, own in barriers[0].own.items():
        rows = {b.way: [*b.ends[name], b.highest[name], b.heights[name]] for b in barriers}
        for way, values in (rows | {"own": [*own]}).items():
            title = f"{name.replace('_', ' ')}, {way}"
            lines.append(f"{title:20}" + "".join(f"{value:12.4g}" for value in values))
    lines.append("own: of both checkpoints, with their own running statistics")
    return "\n".join(lines)
