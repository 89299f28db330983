"""`evaluate`: from a job to its surface, alone or as one of many ranks.

The file is the checkpoint: what is left to do are the cells it does not mark done.
"""

from __future__ import annotations

import logging
import os
import socket
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from lsengine import job as jobs
from lsengine import log as logs
from lsengine import store
from lsengine.engine.messages import Assignment
from lsengine.engine.run import Options, Run
from lsengine.errors import EnvironmentUnfit, LsengineError, Stopped
from lsengine.job import Job
from lsengine.lock import held
from lsengine.ranks import StopRequest, World
from lsengine.store import Results

if TYPE_CHECKING:
    from lsengine.engine.coordinator import Coordinator

__all__ = ["Options", "evaluate"]
log = logging.getLogger(__name__)


def evaluate(path: str | Path, options: Options, *, world: World | None) -> int:
    """Evaluate what is missing of a job's surface.

    Every rank calls it; workers return when the coordinator says so.  Not collective.

    Args:
        path: The job file; only the coordinator reads it.
        options: See `Options`.
        world: The ranks, from `lsengine.ranks.connect`; None alone.

    Returns:
        The exit code that all ranks agreed on.

    Raises:
        LsengineError: On the coordinator (or alone), after all workers have been dismissed
            with the error's exit code.
    """
    stop = StopRequest().install()
    if world is None:
        logs.configure(rank=0)
        return _alone(path, options, stop)
    logs.configure(rank=world.rank)
    if world.rank == 0:
        return _coordinate(path, options, stop, world)
    # torch is imported only when the coordinator has found the job valid.
    from lsengine.engine import worker

    return worker.work(world, stop)


def _alone(path: str | Path, options: Options, stop: StopRequest) -> int:
    job = jobs.load(path, command="eval")

    def tick() -> None:
        if stop:
            raise Stopped(f"stopped by {stop.signal}")

    with _locked(job, stop):
        run = Run(job, options)
        if not run.cells:
            return run.conclude()
        from lsengine.engine.worker import Evaluator

        here = Assignment(job, slot=0, threads=len(os.sched_getaffinity(0)))
        evaluator = Evaluator(here, tick=tick, loaded=run.loaded)
        plan = run.settle(evaluator.facts(socket.gethostname()), world=None)
        writer = store.Writer(plan.path)
        try:
            evaluator.start(plan.for_(checks=True))
            size = options.chunk or 1
            for first in range(0, len(run.cells), size):
                report = evaluator.run(run.cells[first : first + size])
                writer.write(report.results)
                run.count(report.results)
                if report.interrupted:
                    raise Stopped(report.interrupted)  # noqa: TRY301  the one way out of a stop
        except Stopped as stopped:
            raise run.stopped(stopped) from None
        finally:
            run.progress.close()
            writer.close()
        return run.conclude()


def _coordinate(path: str | Path, options: Options, stop: StopRequest, world: World) -> int:
    from lsengine.engine.coordinator import Coordinator

    coordinator = Coordinator(world, stop, options.chunk)
    try:
        job = jobs.load(path, command="eval")
        with _locked(job, stop):
            code = _lead(job, options, world, coordinator)
    except LsengineError as error:
        if not coordinator.dismiss(error.exit_code):
            log.error("%s", error)  # noqa: TRY400  a user's error needs no traceback
            world.abort(error.exit_code)
        raise
    if not coordinator.dismiss(code):
        world.abort(code)
    return code


def _lead(job: Job, options: Options, world: World, coordinator: Coordinator) -> int:
    if _has_work(job, options):
        coordinator.greet(job)  # workers load while the coordinator prepares
    run = Run(job, options)
    if not run.cells:
        return run.conclude()
    plan = run.settle(coordinator.first_facts(), world)
    writer = None if plan.parallel else store.Writer(plan.path)

    def sink(results: Results) -> None:
        if writer is not None:
            writer.write(results)
        run.count(results)

    try:
        coordinator.serve(plan, run.cells, sink)
        coordinator.dismiss(run.code)
    except Stopped as stopped:
        coordinator.dismiss(stopped.exit_code)
        raise run.stopped(stopped) from None
    except LsengineError as error:
        coordinator.dismiss(error.exit_code)
        raise
    finally:
        run.progress.close()
        if writer is not None:
            writer.close()
    return run.conclude()


def _has_work(job: Job, options: Options) -> bool:
    """Whether workers will be needed, as far as a look at the file can tell."""
    if not job.output.exists():
        return True
    try:
        return bool(options.pending(store.read_status(job.output)).any())
    except LsengineError:
        return False  # `Run` raises it again


def _locked(job: Job, stop: StopRequest) -> AbstractContextManager[None]:
    try:
        job.output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentUnfit(f"output: {job.output.parent} cannot be made: {error}") from error
    return held(job.output, lost=lambda: stop.request("the loss of the surface's lock"))
