"""The evaluation of jobs, alone or by all ranks."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lsengine import log as logs
from lsengine import store
from lsengine.engine.messages import Assignment, Plan
from lsengine.engine.protocol.watchdog import Watchdog
from lsengine.engine.protocol.worker import work
from lsengine.engine.run import Options, Run
from lsengine.errors import CellsFailed, EnvironmentUnfit, LsengineError, Stopped
from lsengine.job import Job, load_all
from lsengine.ranks import StopRequest, World, available_cores
from lsengine.store import CellResults
from lsengine.store.lock import held

if TYPE_CHECKING:
    from lsengine.engine.evaluator import Evaluator
    from lsengine.engine.protocol.coordinator import Coordinator

log = logging.getLogger(__name__)
Find = Callable[[StopRequest], Sequence[Job]]


def evaluate(
    paths: Sequence[str | Path], options: Options, *, world: World | None, only: str = "*"
) -> int:
    """Evaluate what is missing of the surfaces of jobs, one after the other.

    Every rank calls it; workers return when the coordinator says so.  Not collective.

    Args:
        paths: Job files; only the coordinator reads them, all before any work.
        options: See `Options`.
        world: The ranks, from `lsengine.ranks.join`; None alone.
        only: Pattern of the names of the wanted jobs, where a file makes several.

    Returns:
        The exit code that all ranks agreed on.

    Raises:
        LsengineError: On the coordinator (or alone), after all workers have been dismissed
            with the error's exit code.
    """
    command = "trajectory" if options.trajectory_only else "eval"

    def find(_: StopRequest) -> list[Job]:
        found = [job for path in paths for job in load_all(path, command=command, only=only)]
        return [replace(job, shard=options.shard) for job in found]

    return evaluate_found(find, options, world=world)


def evaluate_found(find: Find, options: Options, *, world: World | None) -> int:
    """Evaluate the surfaces of jobs that the coordinator finds first; else as `evaluate`.

    Args:
        find: Called on the coordinator (or alone) while the workers wait; it may take its
            time, and should end with `Stopped` when its argument becomes true.
        options: See `Options`.
        world: The ranks, or None alone.
    """
    stop = StopRequest().install()
    logs.configure(rank=world.rank if world else 0)
    try:
        if world is None:
            return _alone(find, options, stop)
        if world.rank > 0:
            return work(world, stop)
        return _lead(find, options, stop, world)
    finally:
        stop.uninstall()


def _alone(find: Find, options: Options, stop: StopRequest) -> int:
    failed: list[CellsFailed] = []
    for job in find(stop):
        try:
            with _locked(job, stop):
                _evaluate_here(job, options, stop)
        except CellsFailed as error:
            failed.append(error)  # the other surfaces are not concerned
    if failed:
        raise CellsFailed("\n".join(str(error) for error in failed))
    return 0


def _evaluate_here(job: Job, options: Options, stop: StopRequest) -> None:
    def tick() -> None:
        if stop:
            raise Stopped(f"stopped by {stop.signal}")

    watchdog = Watchdog(job.document.launch.hang_s)

    def tick_while_evaluating() -> None:
        tick()
        watchdog.progress()

    run = Run(job, options, tick)
    if not run.cells:
        run.conclude()
        return
    from lsengine.engine.evaluator import Evaluator

    here = Assignment(job, slot=0, threads=len(available_cores()))
    evaluator = Evaluator(here, tick=tick_while_evaluating, loaded=run.loaded)
    watchdog.rest()  # what comes now may take its time in one piece
    plan = run.settle(evaluator.facts(socket.gethostname()), world=None, tick=tick)
    writer = store.Writer(plan.path)
    try:
        watchdog.progress()
        evaluator.start(plan.for_(checks=True))
        rest = run.cells
        while rest:
            report = evaluator.run(rest[: options.chunk])
            rest = rest[len(report.results.cells) :]
            writer.write(report.results)
            run.count(report.results)
            if report.interrupted:
                raise Stopped(report.interrupted)  # noqa: TRY301  the one way out of a stop
    except Stopped as stopped:
        raise run.stopped(stopped) from None
    finally:
        watchdog.rest()
        run.close()
        writer.close()
    run.verify()
    run.conclude()


def _lead(find: Find, options: Options, stop: StopRequest, world: World) -> int:
    """Lead all workers through all jobs; whatever happens, they leave with the same code."""
    from lsengine.engine.protocol.coordinator import Coordinator

    coordinator = Coordinator(world, stop, options.chunk)
    failed: list[CellsFailed] = []
    try:
        jobs = find(stop)
        for number, job in enumerate(jobs, 1):
            more = number < len(jobs)
            try:
                with _locked(job, stop):
                    _evaluate_with(coordinator, job, options, world, more, bool(failed))
            except CellsFailed as error:
                failed.append(error)  # the other surfaces are not concerned
            if more:
                coordinator = Coordinator(world, stop, options.chunk)
        if failed:
            raise CellsFailed("\n".join(str(error) for error in failed))
    except LsengineError as error:
        coordinator.dismiss(error.exit_code)
        raise
    return 0


def _evaluate_with(
    coordinator: Coordinator, job: Job, options: Options, world: World, more: bool, failed: bool
) -> None:
    """Have one job evaluated by the workers, and dismiss them; from all jobs if none is left."""
    if _has_work(job, options):
        coordinator.greet(job)  # workers load while the coordinator prepares
    run = Run(job, options, coordinator.check_stop)
    writer: store.Writer | None = None

    def sink(results: CellResults) -> None:
        if writer is not None and (not plan.parallel or results.worker == 0):
            writer.write(results)
        run.count(results)

    try:
        if run.cells:
            plan = run.settle(coordinator.first_facts(), world, tick=coordinator.check_stop)
            here = coordinator.place_here(available_cores(), run.devices())
            if here is not None or not plan.parallel:
                writer = store.Writer(plan.path, world.comm_self if plan.parallel else None)
            own = None if here is None else partial(_own_evaluator, here, run, plan)
            coordinator.serve(plan, run.cells, sink, blocks=run.blocks, own=own)
            if writer is not None:
                writer.close()
                writer = None
            run.verify()
        coordinator.dismiss(CellsFailed.exit_code if failed and not more else run.code, more=more)
    except Stopped as stopped:
        coordinator.dismiss(stopped.exit_code)
        raise run.stopped(stopped) from None
    except LsengineError as error:
        coordinator.dismiss(error.exit_code)
        raise
    finally:
        run.close()
        if writer is not None:
            writer.close()
    run.conclude()


def _own_evaluator(here: Assignment, run: Run, plan: Plan, tick: Callable[[], None]) -> Evaluator:
    """Return what evaluates cells on rank 0 itself."""
    from lsengine.engine.evaluator import Evaluator

    log.info("rank 0 evaluates, too: it would leave a device or a core idle")
    evaluator = Evaluator(here, tick=tick, loaded=run.loaded)
    evaluator.start(plan)
    return evaluator


def _has_work(job: Job, options: Options) -> bool:
    """Whether workers will be needed, as far as a look at the file can tell."""
    if not job.output.exists():
        return True
    try:
        if job.trajectory is not None and store.read_trajectory(job.output) is None:
            return True
        return bool(options.pending(store.read_status(job.output)).any())
    except LsengineError:
        return False  # `Run` raises it again


def _locked(job: Job, stop: StopRequest) -> AbstractContextManager[None]:
    try:
        job.output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentUnfit(f"output: {job.output.parent} cannot be made: {error}") from error
    return held(job.output, lost=lambda: stop.request("the loss of the surface's lock"))
