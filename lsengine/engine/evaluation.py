"""The evaluation of jobs by all ranks, which may be one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from lsengine import files, store
from lsengine import log as logs
from lsengine.engine.options import Options
from lsengine.engine.protocol.coordinator import Coordinator
from lsengine.engine.protocol.worker import work
from lsengine.errors import CellsFailed, LsengineError, Stopped, UsageError
from lsengine.job import Job, load_all
from lsengine.ranks import StopRequest, World
from lsengine.store import CellResults
from lsengine.store.lock import held

Find = Callable[[StopRequest], Sequence[Job]]


def evaluate(
    paths: Sequence[str | Path],
    options: Options,
    *,
    world: World | None,
    only: str = "*",
    changes: Sequence[str] = (),
) -> int:
    """Evaluate what is missing of the surfaces of jobs, one after the other.

    Every rank calls it; workers return when the coordinator says so.  Not collective.

    Args:
        paths: Job files; only the coordinator reads them, all before any work.
        options: What may differ between runs.
        world: The ranks, from `lsengine.ranks.join`; None alone.
        only: Pattern of the names of the wanted jobs, where a file makes several.
        changes: ``KEY=VALUE`` that replace values of the files.

    Returns:
        The exit code that all ranks agreed on.

    Raises:
        LsengineError: On the coordinator, after all workers have been told to leave with the
            error's exit code.
    """
    command = "trajectory" if options.trajectory_only else "eval"

    def find(stop: StopRequest) -> list[Job]:
        wanted = {"command": command, "only": only}
        with stop.at_once():
            jobs = [j for path in paths for j in load_all(path, **wanted, changes=changes)]
        return [replace(job, shard=options.shard) for job in jobs]

    return evaluate_found(find, options, world=world)


def evaluate_found(find: Find, options: Options, *, world: World | None) -> int:
    """Evaluate the surfaces of jobs that the coordinator finds first; else as `evaluate`.

    ``find`` is called on the coordinator while the workers wait; it may take its time, and should
    end with `Stopped` when its argument becomes true.
    """
    world = world or World.alone()
    logs.configure(rank=world.rank)
    with StopRequest() as stop:
        if world.rank > 0:
            return work(world, stop, options)
        return _lead(find, options, stop, world)


def _lead(find: Find, options: Options, stop: StopRequest, world: World) -> int:
    """Lead all ranks through all jobs; whatever happens, they leave with the same code."""
    coordinator = Coordinator(world, stop, options)
    failures: list[CellsFailed] = []
    lost = partial(stop.request, "the loss of the surface's lock")

    def end_all(code: int) -> None:
        coordinator.shut_down(CellsFailed.exit_code if failures else code)

    def go_on(_: int) -> None:
        coordinator.release()

    try:
        jobs = find(stop)
        for jobs_left, job in zip(reversed(range(len(jobs))), jobs, strict=True):
            try:
                files.make_folder(job.output.parent, "output")
                with held(job.output, lost=lost, tick=stop.raise_if_requested):
                    end = go_on if jobs_left else end_all
                    _evaluate_job(job, coordinator, options, stop, world, end)
            except CellsFailed as error:
                failures.append(error)  # the other surfaces are not concerned
            if jobs_left:
                coordinator = Coordinator(world, stop, options)
        if failures:
            raise CellsFailed(*map(str, failures))
    except LsengineError as error:
        coordinator.shut_down(error.exit_code)
        raise
    return 0


def _evaluate_job(
    job: Job,
    coordinator: Coordinator,
    options: Options,
    stop: StopRequest,
    world: World,
    end: Callable[[int], None],
) -> None:
    """Have one job evaluated, and call ``end`` with its exit code when all cells are written."""
    if _has_work(job, options):
        # Workers load while the coordinator prepares.
        coordinator.assign_all(job, settled_threads=_settled_threads(job, options))
    with stop.at_once():
        from lsengine.engine.run import Run  # the job is valid: now torch is needed

    tick = stop.raise_if_requested
    run = Run(job, options, tick)
    writer: store.Writer | None = None

    def sink(results: CellResults) -> None:
        if writer is not None and (not plan.parallel or results.worker == 0):
            writer.write(results)
        run.outcome.count(results)

    try:
        if run.inventory.cells:
            takes_part = coordinator.join_in(run.workspace, run.visible_devices())
            plan = run.settle(coordinator.first_info(), world, takes_part=takes_part, tick=tick)
            if takes_part or not plan.parallel:
                writer = store.Writer(plan.path, world.comm_self if plan.parallel else None)
            inventory = run.inventory
            coordinator.serve(plan, inventory.cells, sink, blocks=inventory.blocks)
            if writer is not None:
                writer.close()
                writer = None
            run.outcome.verify()
        end(run.outcome.code)
    except LsengineError as cause:
        error = run.outcome.judged(cause)
        coordinator.shut_down(error.exit_code)  # what workers still report is written and counted
        if isinstance(error, UsageError):
            run.discard_unused()
        raise run.outcome.stopped(error) if isinstance(error, Stopped) else error from None
    finally:
        run.outcome.close()
        if writer is not None:
            writer.close()
    run.outcome.conclude()


def _settled_threads(job: Job, options: Options) -> int:
    """Return the threads that the cells were evaluated with which are there already, or 0."""
    path = job.output if job.output.exists() else options.extend
    if path is None:
        return 0
    try:
        return int(store.read_attributes(path, ("threads",)).get("threads", 0))
    except LsengineError:
        return 0  # `Run` raises it again


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
