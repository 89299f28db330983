"""Whether a surface file belongs to a job, and what differs between runs of one."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lsengine import store
from lsengine.engine.messages import WorkerInfo
from lsengine.errors import SurfaceError
from lsengine.job import Job
from lsengine.surface.identity import (
    cell_identity,
    disagreements,
    fingerprint,
    first_difference,
    read_identity,
)

if TYPE_CHECKING:
    from lsengine.engine.prepare.checkpoint_series import CheckpointSeries


log = logging.getLogger(__name__)


def refuse_other_job(job: Job, identity: dict[str, Any], series: CheckpointSeries | None) -> None:
    """Refuse a file of another job, or with a trajectory of other checkpoints.

    Raises:
        SurfaceError: Naming the first difference.
    """
    stored = store.read_trajectory(job.output) if series is not None else None
    if series is not None and stored is not None and (other := series.difference(stored.columns)):
        raise SurfaceError(
            f"{job.output}: its trajectory is of other checkpoints ({other}); give this job "
            "another output, or move the file away"
        )
    attributes = store.read_attributes(job.output)
    if attributes.get("fingerprint") == fingerprint(identity):
        return
    stored_identity = read_identity(attributes)
    if stored_identity is None:
        raise SurfaceError(f"{job.output}: damaged: it does not say which job it is of")
    difference = first_difference(identity, stored_identity)
    same_cells = attributes.get("cell_fingerprint") == fingerprint(cell_identity(identity))
    also = f", and take its cells over with --extend {job.output}" if same_cells else ""
    raise SurfaceError(
        f"{job.output}: belongs to another job: {difference}; give this job another output{also}, "
        "or move the file away"
    )


def refuse_other_cells(old: Path, identity: dict[str, Any]) -> None:
    """Refuse to take cells over from a surface whose cells are not this job's.

    Raises:
        SurfaceError: Naming the first difference.
    """
    attributes, ours = store.read_attributes(old), cell_identity(identity)
    if attributes.get("cell_fingerprint") == fingerprint(ours):
        return
    stored, unknown = read_identity(attributes), "it does not say which job it is of"
    difference = unknown if stored is None else first_difference(ours, cell_identity(stored))
    raise SurfaceError(
        f"--extend {old}: its cells are of another job: {difference}; only grid, repeats and "
        "quantities may differ"
    )


def warn_of_differences(attributes: dict[str, Any], facts: WorkerInfo) -> None:
    """Warn of what makes new cells differ from those in a file in their last bits."""
    for difference in disagreements(asdict(facts), attributes):
        log.warning(
            "%s; new cells agree with the old ones to the precision's tolerance, not bit by bit",
            difference.words("here", "in the file"),
        )
