"""What evaluates cells: a worker, in conversation with the coordinator, or rank 0 itself.

torch is imported when there is work.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, TypeVar

from lsengine.engine.messages import Assignment, Farewell, Hello, Plan, Report, WorkerInfo
from lsengine.engine.options import Options
from lsengine.engine.protocol.leases import REPORTS
from lsengine.engine.protocol.watchdog import Watchdog
from lsengine.errors import LsengineError, Stopped
from lsengine.ranks import StopRequest, Tag, World
from lsengine.store import CellResults, Writer, trust

if TYPE_CHECKING:
    from lsengine.engine.evaluator import Evaluator
    from lsengine.engine.workspace import Workspace

T = TypeVar("T")
Make = Callable[[Assignment, Callable[[], None], int], "Workspace"]
"""Makes what a rank evaluates with: from assignment, what to call before every mini-batch, rank."""

_POLL_S = 0.05
_OVERDUE = 2  # times the seconds that a chunk was meant to take, none of it is begun any more
_SIGN_OF_LIFE = 4  # in the time after which silence counts as a hang
# Imports, hashes and copies give no sign of progress, and take their time on a busy file system.
_LOADING, _LOADING_S = 10, 300.0  # times hang_s; at least


def work(
    world: World, stop: StopRequest, options: Options | None = None, make: Make | None = None
) -> int:
    """Serve the coordinator, job after job, until it says that there are no more.

    Independent: talks to rank 0 only.  ``stop`` becomes true when the run shall end early, and
    ``make`` makes what evaluates cells, by default a `Workspace`.

    Returns:
        The exit code all ranks agree on.
    """
    farewell = Farewell(0, more=True)
    while farewell.more:
        world.forget()  # what is left was about a job that has ended
        worker = _Worker(world, stop, options or Options(), make or _workspace)
        try:
            farewell, report = worker.serve()
        except LsengineError as error:
            farewell, report = worker.fail(error), None
        world.send(report, to=0, tag=Tag.BYE)
    world.flush()
    if world.survives_rank_death:
        world.skip_finalize()
    return farewell.code


class _Worker:
    """One worker's conversation with the coordinator."""

    def __init__(self, world: World, stop: StopRequest, options: Options, make: Make) -> None:
        self._world, self._stop, self._options, self._make = world, stop, options, make
        self._watchdog = Watchdog(math.inf)
        self._farewell: Farewell | None = None
        self._polled, self._told, self._tell_every_s = 0.0, 0.0, math.inf

    def serve(self) -> tuple[Farewell, Report | None]:
        """Return the coordinator's last word and the report of a chunk given up, if any."""
        world = self._world
        hello = Hello.here(world.host)
        world.send(hello, to=0, tag=Tag.HELLO)
        message = world.wait(Tag.JOB, Tag.STOP)
        if message.tag == Tag.STOP:
            return message.payload, None
        assignment: Assignment = message.payload
        hang_s = assignment.job.document.launch.hang_s
        self._watch(max(_LOADING * hang_s, _LOADING_S))
        with self._watchdog.watching():
            with self._stop.at_once():
                import_module("lsengine.engine.workspace")  # and so torch, before its caller does
            workspace = self._make(assignment, self._tick, world.rank)
        world.send(workspace.info(world.host), to=0, tag=Tag.LOADED)
        message = world.wait(Tag.PLAN, Tag.STOP)
        if message.tag == Tag.STOP:
            return message.payload, None
        plan: Plan = message.payload
        trust(plan.path)  # rank 0 has laid it out, or looked at it
        self._watch(hang_s)
        self._tell_every_s = hang_s / _SIGN_OF_LIFE
        try:
            with self._watchdog.watching():
                evaluator = workspace.evaluator(plan)
        except Stopped as stopped:
            return self._give_up(Report(CellResults(), 0.0, str(stopped)))
        writer = Writer(plan.path, world.comm_self) if plan.parallel else None
        try:
            return self._chunks(evaluator, writer, plan.report_s)
        finally:
            self._watchdog.pause()
            if writer is not None:
                writer.close()

    def _watch(self, patience_s: float) -> None:
        self._watchdog = Watchdog(patience_s if self._options.end_if_hung else math.inf)

    def fail(self, error: LsengineError) -> Farewell:
        """Tell why there can be no work, unless there is none any more; return the last word."""
        if self._farewell is None:
            self._world.send(error, to=0, tag=Tag.FAIL)
            self._farewell = self._world.wait(Tag.STOP).payload
        return self._farewell

    def _chunks(
        self, evaluator: Evaluator, writer: Writer | None, report_s: float
    ) -> tuple[Farewell, Report | None]:
        report = evaluator.first_report
        if report is not None and writer is not None:
            writer.write(report.results)
        while True:
            self._tell(report, Tag.READY)
            message = self._world.wait(Tag.WORK, Tag.STOP)
            if message.tag == Tag.STOP:
                return message.payload, None
            remaining, begin = message.payload, time.monotonic()
            while remaining:
                self._watchdog.progress()
                report = evaluator.run(remaining, report_s)
                remaining = remaining[len(report.results.cells) :]
                if writer is not None:
                    writer.write(report.results)
                    report.results.values.clear()
                if report.interrupted:
                    return self._give_up(report)
                if time.monotonic() - begin > _OVERDUE * REPORTS * report_s:
                    break  # slower than it was: what is left of the chunk goes back to rank 0
                if remaining:
                    self._tell(report, Tag.PART)
            self._watchdog.pause()  # nobody knows how long it takes until there is work again

    def _tell(self, report: Report | None, tag: Tag) -> None:
        self._told = time.monotonic()
        self._world.send(report, to=0, tag=tag)

    def _give_up(self, report: Report) -> tuple[Farewell, Report | None]:
        """Leave after an interruption: by the coordinator's word, or after telling it."""
        self._watchdog.pause()
        if self._farewell is not None:
            return self._farewell, report
        self._world.send(report, to=0, tag=Tag.READY)
        return self._world.wait(Tag.STOP).payload, None

    def _tick(self) -> None:
        if self._stop:
            raise Stopped(str(self._stop.signal))
        if time.monotonic() - self._polled > _POLL_S:
            self._polled = time.monotonic()
            self._world.check_coordinator()
            self._watchdog.progress()
            if self._polled - self._told > self._tell_every_s:
                self._tell(Report(CellResults(), 0.0), Tag.PART)
            if (message := self._world.poll(Tag.STOP)) is not None:
                self._farewell = message.payload
                raise Stopped("the coordinator's word")


class LocalWorker:
    """Evaluates cells on rank 0, and serves the other ranks before every mini-batch.

    What ``serve`` raises ends the evaluation.
    """

    def __init__(
        self, assignment: Assignment, make: Make, serve: Callable[[], None], patience_s: float
    ) -> None:
        self._assignment, self._make, self._serve = assignment, make, serve
        self._watchdog = Watchdog(patience_s)
        self._error: Exception | None = None

    @functools.cached_property
    def _workspace(self) -> Workspace:
        with self._watchdog.watching():
            return self._call(lambda: self._make(self._assignment, self._tick, 0))

    def info(self, host: str) -> WorkerInfo:
        """Return where its values come from."""
        return self._workspace.info(host)

    def begin(self, plan: Plan) -> Report | None:
        """Put everything on the device; return what there is to tell before the first cell."""
        workspace = self._workspace
        with self._watchdog.watching():
            self._evaluator = self._call(lambda: workspace.evaluator(plan))
        return self._evaluator.first_report

    def run(self, cells: Sequence[int], absorb: Callable[[Report, bool], None]) -> None:
        """Evaluate cells, and hand each report on, with whether there are cells left.

        Raises:
            Exception: What ``serve`` has raised, after the cells finished till then.
        """
        with self._watchdog.watching():
            remaining = list(cells)
            while remaining:
                report = self._evaluator.run(remaining)
                remaining = remaining[len(report.results.cells) :]
                if self._error is None:
                    absorb(report, bool(remaining))
                    continue
                if isinstance(self._error, Stopped):  # any other would be met again
                    absorb(Report(report.results, report.seconds), False)
                raise self._error

    def _call(self, make: Callable[[], T]) -> T:
        try:
            return make()
        except Stopped:
            raise self._error or Stopped("rank 0") from None

    def _tick(self) -> None:
        """Serve the others; a mistake there must not pass for one of the cell's."""
        self._watchdog.progress()
        try:
            self._serve()
        except Exception as error:
            self._error = error
            raise Stopped("rank 0") from error


def _workspace(assignment: Assignment, tick: Callable[[], None], rank: int) -> Workspace:
    from lsengine.engine.workspace import Workspace  # the job is valid: now torch is needed

    return Workspace(assignment, tick, rank)
