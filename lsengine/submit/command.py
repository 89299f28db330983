"""From jobs to batch scripts, sent or shown."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lsengine import log as logs
from lsengine.errors import JobError
from lsengine.files import make_folder
from lsengine.job import Job, load_all
from lsengine.job.schema import LaunchSpec
from lsengine.submit import estimate, script, slurm
from lsengine.submit import site as sites

log = logging.getLogger(__name__)
_PROBES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitOptions:
    """What is asked of a submission.

    Attributes:
        shards: Into how many the surface is split: an array of jobs without MPI evaluates them,
            and another merges them.
        probe: Cells to evaluate beforehand, here or, where GPUs are wanted and none is here, by a
            job of its own; None leaves it to what is known.
    """

    site: Path | None = None  # the site file; None looks for one
    shards: int | None = None
    chain: bool = False  # train before, and draw after
    probe: int | None = None
    may_evaluate: bool = True  # whether cells may be evaluated here
    changes: tuple[str, ...] = ()  # KEY=VALUE that replace values of the job files
    binaries: Path = Path(sys.executable).parent  # of lsengine where the jobs run


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One batch job."""

    kind: str  # train, probe, eval, merge or render
    name: str  # of the lsengine job
    text: str  # the script
    after_any: bool = False  # whether it starts however the step before has ended


def plan(
    paths: Sequence[str | Path], options: SubmitOptions, *, only: str = "*"
) -> list[tuple[Job, list[Step]]]:
    """Return what would be submitted: for each job its steps, each after the one before.

    Estimates are logged.

    Raises:
        JobError: With every problem of a job or of the site file.
        UsageError: If a cell takes longer than a round.
    """
    logs.configure(rank=0)
    site_file = sites.find(options.site)
    site = sites.read(site_file)
    if site_file is not None:
        log.info("site: %s", site_file)
    planned = []
    for path in paths:
        command, changes = "train" if options.chain else "eval", options.changes
        is_matrix = len(load_all(path, changes=changes)) > 1
        for job in load_all(path, command=command, only=only, changes=changes):
            launch = sites.launch_of(job, site)
            if options.shards is not None:  # each shard is one process
                launch = script.of_one_rank(launch, gpus=min(1, launch.gpus_per_node))
            context = script.ScriptContext(options.binaries, is_matrix, changes)
            steps = list(_steps(job, launch, context, options))
            if cells := _estimate(job, launch, options):
                text = script.probing(job, launch, context, cells, site_file, options.shards)
                probe = Step(kind="probe", name=job.document.name, text=text)
                steps.insert(1 if options.chain else 0, probe)
            planned.append((job, steps))
    return planned


def send(job: Job, steps: Sequence[Step]) -> Iterator[str]:
    """Submit the steps of a job; yield the number of each as it is known.

    Raises:
        EnvironmentUnfit: If there is no sbatch, or it refuses.
    """
    make_folder(job.surface.parent, key="output")  # logs go there, too
    number = None
    for step in steps:
        number = slurm.submit(step.text, after=number, after_any=step.after_any)
        yield number


def _steps(
    job: Job, launch: LaunchSpec, context: script.ScriptContext, options: SubmitOptions
) -> Iterator[Step]:
    name, document = job.document.name, job.document
    if options.chain:
        keys = ("model.checkpoint", "directions", "grid")
        parts = (document.model.centre, document.directions, document.grid)
        missing = [key for key, part in zip(keys, parts, strict=True) if not part]
        if missing:
            problems = [f'{key}: required by "lsengine eval", but missing' for key in missing]
            raise JobError(str(job.source), problems)
        yield Step(kind="train", name=name, text=script.training(job, launch, context))
    text = script.evaluating(job, launch, context, options.shards)
    yield Step(kind="eval", name=name, text=text)
    if options.shards is not None:
        # Also when a shard has failed: what the others have is a partial surface.
        text = script.merging(job, launch, context, options.shards)
        yield Step(kind="merge", name=name, text=text, after_any=True)
    if options.chain:
        yield Step(kind="render", name=name, text=script.drawing(job, launch, context))


def _estimate(job: Job, launch: LaunchSpec, options: SubmitOptions) -> int:
    """Log what the surface will cost, as far as that is known or asked for.

    Return how many cells a job has to probe, because it takes a GPU and none is here; mostly 0.
    """
    name, probe = job.document.name, options.probe
    if launch.time is None:
        log.warning("%s: without launch.time, the partition's own limit is not known here", name)
    cost = estimate.of_surface(job) if probe is None else None
    if cost is None and probe != 0 and launch.gpus_per_node:
        from lsengine.devices import visible_count  # imports torch

        if not visible_count("cuda"):
            advice = (
                f"a job of its own evaluates {probe} cells first, and its log has the estimate"
                if probe
                else "--probe 3 has a job evaluate three cells first; after a round, submit knows "
                "it anyway"
            )
            log.info("%s: no estimate: there is no GPU here to probe; %s", name, advice)
            return probe or 0
        probe = probe or _PROBES
    elif cost is None and probe is None and launch.time and not launch.gpus_per_node:
        probe = _PROBES  # a cell that no round has time for is to be refused now
    if probe and not options.may_evaluate:
        log.info("%s: no estimate: --dry-run evaluates nothing; --estimate does", name)
    elif probe and not (job.document.model.centre and job.checkpoint.exists()):
        log.warning("%s: no probe: the checkpoint is still to be trained", name)
    elif probe:
        if options.probe is None:
            log.info("%s: evaluating %d cells for an estimate; --probe 0: none", name, probe)
        cost = estimate.of_probe(job, probe, launch)
    if cost is not None:
        log.info("%s: %s", name, estimate.judged(job, launch, cost, options.shards or 1))
    elif not probe:
        log.info("%s: no estimate; --probe 3 evaluates three cells here first", name)
    return 0
