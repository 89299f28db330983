"""`connect`: a curve of low loss between two minima, and the straight line beside it.

One process trains the curve.  Its points and those of the line are then cells of two surfaces
like any others, whose jobs are derived here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from lsengine import files
from lsengine.cores import own_share
from lsengine.engine import prepare
from lsengine.engine.barrier import measure_barriers
from lsengine.engine.evaluation import evaluate_found
from lsengine.engine.options import Options
from lsengine.job import Job, load
from lsengine.job.direction_types import CurveDirection, DirectionsSpec, TowardDirection
from lsengine.job.schema import BatchNormSpec, GridSpec
from lsengine.ranks import StopRequest, World
from lsengine.store import lock
from lsengine.training.curve_training import CurveTraining, curve_identity, is_trained
from lsengine.training.determinism import deterministic_torch


def run(
    path: str | Path, options: Options, *, world: World | None, changes: Sequence[str] = ()
) -> tuple[int, str]:
    """Train the curve of a job, evaluate it and the straight line, and measure both barriers.

    The plane of the curve is evaluated after them, if the job asks for it.  Every rank calls it;
    see `lsengine.engine.evaluate`.

    Args:
        path: The job file; only the coordinator reads it.
        options: Of the evaluation.
        world: The ranks, from `lsengine.ranks.join`; None alone.
        changes: ``KEY=VALUE`` that replace values of the file.

    Returns:
        The exit code, and on the coordinator a table of both barriers.

    Raises:
        UsageError: If ends, network, data and loss do not go together, the ends are the same,
            or the folder holds another curve.
        Stopped: If a signal asked for it; the same command goes on.
    """
    curve_and_line: list[Job] = []

    def find(stop: StopRequest) -> list[Job]:
        with stop.at_once():
            job = load(path, command="connect", changes=changes)
        train_curve(job, stop)
        curve_and_line.extend(segments(job))
        return [*curve_and_line, *plane(job)]

    code = evaluate_found(find, options, world=world)
    if not curve_and_line:  # a rank that has read no job
        return code, ""
    return code, measure_barriers(curve_and_line)


def train_curve(job: Job, stop: StopRequest) -> Path:
    """Train the curve of a job, or go on where an earlier run of it stopped; return its file.

    Writes ``curve.pt``, all control points, and ``bend_1.pt`` and so on, checkpoints like
    any others, into ``curve.output``.
    """
    settings = job.document.curve
    assert settings is not None
    file = job.path(settings.output) / "curve.pt"
    files.make_folder(file.parent, "curve.output")
    lost = partial(stop.request, "the loss of its lock")
    with (
        lock.held(file, lost=lost, tick=stop.raise_if_requested),
        deterministic_torch(job, threads=own_share().count),
    ):
        loaded = prepare.load(job)
        prepare.check(job, loaded)
        identity = curve_identity(job, loaded.dataset)
        if not is_trained(file, identity):
            criterion = prepare.criterion_of(job, loaded.dataset)
            CurveTraining(
                job, loaded.model, loaded.dataset, criterion, identity, file, stop
            ).finish()
    return file


def segments(job: Job) -> list[Job]:
    """Return the jobs of the two surfaces: along the curve, and along the straight line."""
    settings = job.document.curve
    assert settings is not None
    straight = TowardDirection(kind="toward", checkpoint=str(job.path(settings.to)))
    grid = GridSpec(alpha=(0.0, 1.0, settings.points))
    return [
        _surface(job, "curve", DirectionsSpec(alpha=_along(job)), grid),
        _surface(job, "line", DirectionsSpec(alpha=straight), grid),
    ]


def plane(job: Job) -> list[Job]:
    """Return the job of the plane through both ends and the first bend, if it is asked for."""
    settings = job.document.curve
    assert settings is not None
    if settings.plane is None:
        return []
    both = DirectionsSpec(alpha=_along(job), beta=_along(job))
    alpha, beta = settings.plane
    return [_surface(job, "plane", both, GridSpec(alpha=("auto", alpha), beta=("auto", beta)))]


def _along(job: Job) -> CurveDirection:
    settings = job.document.curve
    assert settings is not None
    path = job.path(settings.output) / "curve.pt"
    return CurveDirection(kind="curve", path=str(path), shape=settings.kind)


def _surface(job: Job, label: str, directions: DirectionsSpec, grid: GridSpec) -> Job:
    """Return the job of one of the surfaces, whose file is called after its label."""
    document = job.document
    suffix = "" if label == "curve" else f"-{label}"
    output = job.output.with_name(f"{job.output.stem}{suffix}{job.output.suffix}")
    policy = document.batch_norm
    if "batch_norm" not in document.model_fields_set:
        policy = BatchNormSpec(policy="recalibrated")
    changes = {
        "name": f"{document.name}{suffix}",
        "directions": directions,
        "grid": grid,
        "batch_norm": policy,
        "output": str(output),
        "repeats": 1,
        "trajectory": None,
    }
    return Job(job.source, document.model_copy(update=changes))
