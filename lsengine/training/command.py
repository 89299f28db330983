"""Several trainings in one launch: every rank takes its share of the jobs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from lsengine import log as logs
from lsengine.cores import own_share
from lsengine.errors import JobError, LsengineError, Stopped
from lsengine.job import Job, load_all
from lsengine.ranks import StopRequest, Tag, World

log = logging.getLogger(__name__)


def run_all(
    paths: Sequence[str | Path],
    *,
    world: World,
    only: str = "*",
    changes: Sequence[str] = (),
    progress: str = "auto",
) -> int:
    """Train the networks of all jobs; under a launcher rank r trains every size-th of them.

    **Collective** at start; the ranks then meet only to agree on an exit code.

    Args:
        paths: Job files, each possibly several jobs.
        world: The ranks, from `lsengine.ranks.join`.
        only: Pattern of the names of the wanted jobs.
        changes: ``KEY=VALUE`` that replace values of the files.
        progress: See `lsengine.training.training.run`; only rank 0 shows a bar.

    Returns:
        The exit code all ranks agree on: the largest of any.

    Raises:
        LsengineError: Alone; under a launcher errors are logged and become the code.
    """
    logs.configure(rank=world.rank)

    def find() -> list[Job]:
        return [j for p in paths for j in load_all(p, command="train", only=only, changes=changes)]

    if world.size == 1:
        return _train(find(), progress, slot=0, threads=own_share().count)
    # Also for ranks that have nothing to train, or nothing more: a signal must not end them.
    with StopRequest() as stop:
        return _train_share(find, world, progress, stop)


def _train_share(
    find: Callable[[], list[Job]], world: World, progress: str, stop: StopRequest
) -> int:
    """Train this rank's share of the jobs, and return the code that all ranks agree on."""
    slot, local_rank_and_size = world.local_rank_and_size()
    threads = own_share(local_rank_and_size).count
    try:
        with stop.at_once():
            jobs = find()
            from lsengine.training import training as training  # torch
        style = progress if world.rank == 0 else "none"
        code = _train(jobs[world.rank :: world.size], style, slot=slot, threads=threads)
    except LsengineError as error:
        if world.rank == 0 or not isinstance(error, JobError):  # a bad job is bad for all
            log.error("%s", error)  # noqa: TRY400  a user's error needs no traceback
        code = error.exit_code
    return _agreed(code, world)


def _train(jobs: Sequence[Job], progress: str, *, slot: int, threads: int) -> int:
    """Train one after the other; a job that cannot be trained does not keep the next from it."""
    from lsengine.training import training  # imports torch

    failed: list[LsengineError] = []
    for job in jobs:
        try:
            training.run(job, progress=progress, slot=slot, threads=threads)
        except Stopped:
            raise
        except LsengineError as error:
            if len(jobs) == 1:
                raise
            log.error("%s: %s", job.document.name, error)  # noqa: TRY400  as above
            failed.append(error)
    return max((error.exit_code for error in failed), default=0)


def _agreed(code: int, world: World) -> int:
    """Tell rank 0 this rank's code and return the largest of all."""
    if world.rank > 0:
        world.send(code, to=0, tag=Tag.BYE)
        agreed: int = world.wait(Tag.STOP).payload
    else:
        agreed, away = code, set(range(1, world.size))
        while away - world.lost():
            if (message := world.receive(Tag.BYE, limit_s=1.0)) is not None:
                agreed = max(agreed, message.payload)
                away.discard(message.source)
        if away:
            log.error("ranks %s have died; the same command goes on", sorted(away))
            agreed = max(agreed, Stopped.exit_code)
        for rank in set(range(1, world.size)) - away:
            world.send(agreed, to=rank, tag=Tag.STOP)
    world.flush()
    return agreed
