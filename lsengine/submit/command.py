"""From jobs to batch scripts, sent or shown."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lsengine import log as logs
from lsengine.errors import EnvironmentUnfit, JobError
from lsengine.job import Job, load_all
from lsengine.job.schema import LaunchSpec
from lsengine.submit import estimate, script, slurm
from lsengine.submit import site as sites

log = logging.getLogger(__name__)
_PROBES = 3


@dataclass(frozen=True, slots=True)
class SubmitOptions:
    """What is asked of a submission.

    Attributes:
        site: The site file, or None to look for one.
        parts: Shards, evaluated by an array of jobs without MPI, and merged by another.
        chain: Train before, and draw after.
        probe: Cells to evaluate beforehand, here or, where GPUs are wanted and none is here, by a
            job of its own; None leaves it to what is known.
        binaries: The folder of lsengine where the jobs run.
    """

    site: Path | None = None
    parts: int | None = None
    chain: bool = False
    probe: int | None = None
    binaries: Path = Path(sys.executable).parent


@dataclass(frozen=True, slots=True)
class Step:
    """One batch job.

    Attributes:
        kind: ``train``, ``probe``, ``eval``, ``merge`` or ``render``.
        name: Of the lsengine job.
        text: The script.
        after_any: Whether it starts however the step before has ended.
    """

    kind: str
    name: str
    text: str
    after_any: bool = False


def plan(
    paths: Sequence[str | Path], wishes: SubmitOptions, *, only: str = "*"
) -> list[tuple[Job, list[Step]]]:
    """Return what would be submitted: for each job its steps, each after the one before.

    Estimates are logged.

    Raises:
        JobError: With every problem of a job or of the site file.
        UsageError: If a cell takes longer than a round.
    """
    logs.configure(rank=0)
    found = sites.find(wishes.site)
    site = sites.read(found)
    if found is not None:
        log.info("site: %s", found)
    planned = []
    for path in paths:
        several = len(load_all(path)) > 1
        for job in load_all(path, command="train" if wishes.chain else "eval", only=only):
            launch = sites.settled(job, site)
            if wishes.parts is not None:  # each shard is one process
                launch = script.of_one_rank(launch, gpus=min(1, launch.gpus_per_node))
            place = script.ScriptContext(wishes.binaries, several)
            steps = list(_steps(job, launch, place, wishes))
            if cells := _estimate(job, launch, wishes):
                text = script.probing(job, launch, place, cells, found, wishes.parts)
                steps.insert(1 if wishes.chain else 0, Step("probe", job.document.name, text))
            planned.append((job, steps))
    return planned


def send(job: Job, steps: Sequence[Step]) -> Iterator[str]:
    """Submit the steps of a job; yield the number of each as it is known.

    Raises:
        EnvironmentUnfit: If there is no sbatch, or it refuses.
    """
    try:
        job.surface.parent.mkdir(parents=True, exist_ok=True)  # logs go there, too
    except OSError as error:
        raise EnvironmentUnfit(f"output: {job.surface.parent} cannot be made: {error}") from error
    before: list[str] = []
    for step in steps:
        number = slurm.submit(step.text, after=before, after_any=step.after_any)
        before = [number]
        yield number


def _steps(
    job: Job, launch: LaunchSpec, place: script.ScriptContext, wishes: SubmitOptions
) -> Iterator[Step]:
    name = job.document.name
    if wishes.chain:
        _refuse_without_surface(job)
        yield Step("train", name, script.training(job, launch, place))
    yield Step("eval", name, script.evaluating(job, launch, place, wishes.parts))
    if wishes.parts is not None:
        # Also when a shard has failed: what the others have is a partial surface.
        merging = script.merging(job, launch, place, wishes.parts)
        yield Step("merge", name, merging, after_any=True)
    if wishes.chain:
        yield Step("render", name, script.drawing(job, launch, place))


def _refuse_without_surface(job: Job) -> None:
    document = job.document
    needed = {
        "model.checkpoint": document.model.checkpoint,
        "directions": document.directions,
        "grid": document.grid,
    }
    missing = [f'{k}: required by "lsengine eval", but missing' for k, v in needed.items() if not v]
    if missing:
        raise JobError(str(job.source), missing)


def _estimate(job: Job, launch: LaunchSpec, wishes: SubmitOptions) -> int:
    """Log what the surface will cost, as far as that is known or asked for.

    Returns:
        How many cells a job has to probe, because it takes a GPU and none is here; as a rule 0.
    """
    name, probe = job.document.name, wishes.probe
    if launch.time is None:
        log.warning("%s: without launch.time, the partition's own limit is not known here", name)
    cost = estimate.of_surface(job) if probe is None else None
    if cost is None and probe != 0 and launch.gpus_per_node:
        if not _has_gpu():
            log.info("%s: no estimate: there is no GPU here to probe; %s", name, _elsewhere(probe))
            return probe or 0
        probe = probe or _PROBES
    elif cost is None and probe is None and launch.time and not launch.gpus_per_node:
        probe = _PROBES  # a cell that no round has time for is to be refused now
    if probe and not (job.document.model.checkpoint and job.checkpoint.is_file()):
        log.warning("%s: no probe: the checkpoint is still to be trained", name)
    elif probe:
        if wishes.probe is None:
            log.info("%s: evaluating %d cells for an estimate; --probe 0: none", name, probe)
        cost = estimate.of_probe(job, probe, launch)
    if cost is not None:
        log.info("%s: %s", name, estimate.judged(job, launch, cost, wishes.parts or 1))
    elif not probe:
        log.info("%s: no estimate; --probe 3 evaluates three cells here first", name)
    return 0


def _elsewhere(probe: int | None) -> str:
    if probe:
        return f"a job of its own evaluates {probe} cells first, and its log has the estimate"
    return "--probe 3 has a job evaluate three cells first; after a round, submit knows it anyway"


def _has_gpu() -> bool:
    from lsengine.devices import visible_count

    return visible_count("cuda") > 0
