"""Whether a surface file belongs to a job, and what differs between runs of one."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lsengine import store
from lsengine.engine.messages import Twin, WorkerInfo
from lsengine.errors import SurfaceError
from lsengine.job import Job
from lsengine.store import damage
from lsengine.surface import drawn
from lsengine.surface.identity import (
    Difference,
    cell_identity,
    differs_in_sources_known,
    disagreements,
    fingerprint,
    first_difference,
    read_identity,
)
from lsengine.wording import listed

if TYPE_CHECKING:
    from lsengine.engine.prepare.checkpoint_series import CheckpointSeries
    from lsengine.engine.prepare.directions import Arrays

Array = NDArray[np.float32]

log = logging.getLogger(__name__)
_SAME = 1e-5  # relative distance of two directions that are one but for last bits


def refuse_damaged(surface: Path, *, retries: bool) -> None:
    """Refuse a file to go on with that is damaged, but for cells if the run ``retries`` them.

    Raises:
        SurfaceError: Naming what is damaged.
    """
    if which := damage.refuse(surface, cells=not retries).cells:
        log.warning("%s: %s do not fit their checksums; they are evaluated again", surface, which)


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
    if _knows_other_sources(job.output, identity, stored_identity):
        return
    same_cells = attributes.get("cell_fingerprint") == fingerprint(cell_identity(identity))
    undo = "undo the edit, or " if _is_edit(difference) else ""
    also = f", and take its cells over with --extend {job.output}" if same_cells else ""
    raise SurfaceError(
        f"{job.output}: belongs to another job: {difference}; {undo}give this job "
        f"another output{also}, or move the file away"
    )


def refuse_other_cells(old: Path, name: str, identity: dict[str, Any]) -> None:
    """Refuse to take cells over from a surface that is damaged or whose cells are not this job's.

    ``name`` is the job's, which may be one of several of a file.

    Raises:
        SurfaceError: Naming the job and the first difference.
    """
    damage.refuse(old)
    attributes, ours = store.read_attributes(old), cell_identity(identity)
    if attributes.get("cell_fingerprint") == fingerprint(ours):
        return
    stored, unknown = read_identity(attributes), "it does not say which job it is of"
    if stored is not None and _knows_other_sources(old, ours, cell_identity(stored)):
        return
    difference = unknown if stored is None else first_difference(ours, cell_identity(stored))
    undo = "undo the edit, or " if _is_edit(difference) else ""
    raise SurfaceError(
        f"--extend {old}: its cells are of another job than {name}: {difference}; allowed: another "
        f"grid, repeats or quantities; {undo}evaluate {name} without --extend (--only takes one "
        "job of a matrix)"
    )


def _knows_other_sources(path: Path, ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """Whether a file is of this job, as far as it knows the sources; it may be older."""
    if not differs_in_sources_known(ours, theirs):
        return False
    if unknown := sorted(ours.get("code", {}).keys() - theirs.get("code", {}).keys()):
        log.warning(
            "%s: does not say what was in %s; whether it has been edited since is not known",
            *(path, listed(unknown)),
        )
    return True


def _is_edit(difference: Difference | str | None) -> bool:
    return isinstance(difference, Difference) and difference.is_of_code


def refuse_other_directions(old: Path, directions: Arrays, *, repeats: bool) -> None:
    """Refuse to take cells over from a surface that lies elsewhere, whatever its job says.

    Directions are drawn, or parameters left out, by rules that versions may have changed.  Those
    that are computed may differ in their last bits.  With repeats the first ones are compared.
    Of directions that the file does not hold, all bits are compared.

    Raises:
        SurfaceError: Naming the first parameter that differs.
    """
    again = store.read_drawn(old)
    differs = again and drawn.difference(drawn.digests(directions, repeats=repeats), again)
    if differs:
        raise _lies_elsewhere(old, *differs, "has other numbers")
    for axis, stored in store.read_directions(old).items():
        ours = directions.get(axis, {})
        for name in [*ours, *(n for n in stored if n not in ours)]:
            if why := _difference(ours.get(name), stored.get(name)):
                raise _lies_elsewhere(old, axis, name, why)


def _lies_elsewhere(old: Path, axis: str, name: str, why: str) -> SurfaceError:
    return SurfaceError(
        f"--extend {old}: its direction {axis} is not the one of this job: {name} {why}; another "
        "version may have made it; evaluate this job without --extend"
    )


def _difference(ours: Array | None, theirs: Array | None) -> str | None:
    """Return how a parameter's directions differ, of which one may have more repeats."""
    if ours is None or theirs is None:
        return "moves there and stays here" if ours is None else "stays there and moves here"
    if (ranks := {ours.ndim, theirs.ndim}) and len(ranks) > 1:  # only one has repeats
        ours, theirs = (a[0] if a.ndim == max(ranks) else a for a in (ours, theirs))
    elif ours.shape[1:] == theirs.shape[1:]:
        count = min(len(ours), len(theirs)) if ours.ndim else 1
        ours, theirs = (a[:count] if a.ndim else a for a in (ours, theirs))
    if ours.shape != theirs.shape:
        return f"has the shape {[*ours.shape]} here, {[*theirs.shape]} there"
    distance, length = np.linalg.norm(ours - theirs), np.linalg.norm(theirs)
    return None if distance <= _SAME * length else "leads elsewhere"


def refuse_other_datasets(
    path: Path, quantities: Sequence[str], of_checkpoints: Sequence[str]
) -> None:
    """Refuse a file with other quantities than its job fills, of cells or of its checkpoints.

    Raises:
        SurfaceError: Naming them, or what else is damaged.
    """
    surface = store.read(path)
    missing = [name for name in quantities if name not in surface.quantities]
    if surface.trajectory is not None:
        columns = surface.trajectory.columns
        missing += [f"trajectory/{n}" for n in of_checkpoints if n not in columns]
    if missing:
        raise SurfaceError(
            f"{path}: damaged: {listed(missing)} not there, which this job fills; move the file "
            "away"
        )
    if more := surface.quantities.keys() - set(quantities):
        raise SurfaceError(
            f"{path}: damaged: {listed(sorted(more))} there, which this job does not fill; move "
            "the file away"
        )


def refuse_other_metrics(surface: Path, attributes: dict[str, Any], metrics: Sequence[str]) -> None:
    """Refuse an objective that returns other metrics than when a surface was begun.

    Raises:
        SurfaceError: With both.
    """
    before = json.loads(attributes.get("metrics", "[]"))
    if list(metrics) != before:
        raise SurfaceError(
            f"{surface}: its objective returned {listed(before) or 'no metrics'} at the beginning, "
            f"and returns {listed([*metrics]) or 'no metrics'} now; give this job another output, "
            "or undo the change"
        )


def refuse_other_twin(
    surface: Path, attributes: dict[str, Any], twin: Twin, *, points: int | None = None
) -> None:
    """Refuse a network that has other losses than when a surface was begun.

    The first ``points`` of the twin are compared, the centre first; without it all.

    Raises:
        SurfaceError: Naming the first split whose samples' mean loss is another.
    """
    try:
        stored = json.loads(attributes["twin"])
    except (KeyError, TypeError, ValueError):
        return  # of a version without a twin
    for split, means in twin.means().items():
        allowed = max(probe.allowed[split] for probe in twin.probes)
        for mean, before in zip(means[:points], stored.get(split, ()), strict=False):
            if not (abs(mean - before) <= allowed or mean == before or mean != mean):
                raise SurfaceError(
                    f"{surface}: the mean loss of a few {split} samples is {mean:.6g} now, and was "
                    f"{before:.6g} when the surface was begun; the network has a state that is not "
                    "in the checkpoint, or another version of a library: give the job another "
                    "output, or undo the change"
                )


def warn_of_differences(attributes: dict[str, Any], facts: WorkerInfo) -> None:
    """Warn of what makes new cells differ from those in a file in their last bits."""
    for difference in disagreements(asdict(facts), attributes):
        log.warning(
            "%s; new cells agree with the old ones to the precision's tolerance, not bit by bit",
            difference.words("here", "in the file"),
        )
