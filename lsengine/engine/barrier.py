"""The height of the barrier between two minima, along a curve and along the line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lsengine import store, wording
from lsengine.cores import own_share
from lsengine.devices import device_of
from lsengine.engine import prepare
from lsengine.engine.prepare.loading import criterion_of
from lsengine.engine.prepare.settings import BATCH_NORM, CURVATURE, evaluation_settings
from lsengine.errors import CellsFailed
from lsengine.geometry import curve
from lsengine.geometry.parameters import Floats
from lsengine.job import Job
from lsengine.models import checkpoint
from lsengine.objective import Objective
from lsengine.store import lock
from lsengine.training.determinism import deterministic_torch


def measure_barriers(jobs: Sequence[Job]) -> str:
    """Measure curve and line on their finished surfaces, and note in them what is found.

    The jobs are those of `lsengine.engine.connect.segments`.

    Returns:
        A table for a person: by loss a row for curve, line, and the ends alone.

    Raises:
        CellsFailed: If a surface is not complete.
    """
    surfaces = [store.read(job.output) for job in jobs]
    for surface in surfaces:
        if not surface.done.all():
            raise CellsFailed(f"{surface.source}: is not complete; its barrier is not known")
    names = [name for name in ("train_loss", "test_loss") if name in surfaces[0].quantities]
    checkpoint_losses = _checkpoint_losses(jobs[0], surfaces[0].attributes, names)
    heights = [
        {n: curve.barrier(s.quantities[n], s.axes["alpha"]) for n in names} for s in surfaces
    ]
    for job, surface, heights_of in zip(jobs, surfaces, heights, strict=True):
        _note(job.output, surface.attributes, heights_of, checkpoint_losses)
    rows = [["", "first end", "other end", "highest", "barrier"]]
    for name, own in checkpoint_losses.items():
        numbers: dict[str, list[float]] = {}
        for label, surface, heights_of in zip(("curve", "line"), surfaces, heights, strict=True):
            losses = surface.quantities[name]
            numbers[label] = [*losses[[0, -1]], losses.max(), heights_of[name]]
        for label, values in (numbers | {"own": [*own]}).items():
            cells = [f"{value:.4g}" for value in values]
            rows.append([f"{name.replace('_', ' ')}, {label}", *cells, *[""] * (4 - len(cells))])
    paths = [f"{label}: {job.output}" for label, job in zip(("curve", "line"), jobs, strict=True)]
    legend = "own: of both checkpoints, with their own running statistics"
    return "\n".join([*paths, wording.table(rows), legend])


def _note(
    path: Path,
    attributes: Mapping[str, Any],
    heights: Mapping[str, float],
    checkpoint_losses: Mapping[str, Floats],
) -> None:
    """Write barriers and losses of the ends into a surface file, unless they are there."""
    noted: dict[str, Any] = {f"{name}_barrier": height for name, height in heights.items()}
    noted |= {f"{name}_ends": ends for name, ends in checkpoint_losses.items()}
    if all(n in attributes and np.array_equal(attributes[n], v) for n, v in noted.items()):
        return
    with lock.held(path, lost=lambda: None):
        store.amend(path, noted)


def _checkpoint_losses(
    job: Job, attributes: Mapping[str, Any], names: Sequence[str]
) -> dict[str, Floats]:
    """Return the losses of both ends with their own running statistics.

    ``attributes`` are those of a job's surface, which may have them from an earlier run.
    """
    if all(f"{name}_ends" in attributes for name in names):
        return {name: attributes[f"{name}_ends"] for name in names}
    spec = job.document.curve
    assert spec is not None
    with deterministic_torch(job, threads=own_share().count):
        loaded = prepare.load(job)
        settings = evaluation_settings(
            job,
            device_of(job.document.device, 0),
            precision=str(attributes["precision"]),
            batch_size=int(attributes["batch_size"]),
            without=BATCH_NORM | CURVATURE,  # of either end the statistics of its checkpoint
        )
        settings = replace(settings, at_once=attributes.get("loss_of") == "split")
        loss = criterion_of(job, loaded.dataset)
        objective = Objective(loaded.model, loaded.dataset, loss, {}, settings)
        losses = []
        for path, key in ((job.checkpoint, "model.checkpoint"), (job.path(spec.to), "curve.to")):
            end = checkpoint.load(path, key=key, spec=job.document.model)
            losses.append(objective.losses_of(partial(checkpoint.fit, checkpoint=end, key=key)))
    return {name: np.array([of_end[name] for of_end in losses]) for name in names}
