"""The worker's conversation with the coordinator; torch is imported when there is work."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from lsengine.engine.messages import Farewell, Hello, Plan, Report
from lsengine.errors import LsengineError, Stopped
from lsengine.ranks import StopRequest, Tag, World, usable_cores
from lsengine.store import Results, Writer

if TYPE_CHECKING:
    from lsengine.engine.evaluator import Evaluator

_POLL_S = 0.05


def work(world: World, stop: StopRequest) -> int:
    """Serve the coordinator, job after job, until it says that there are no more.

    Returns:
        The exit code all ranks agree on.  Independent: talks to rank 0 only.
    """
    farewell = Farewell(0, more=True)
    while farewell.more:
        world.forget()  # what is left was about a job that has ended
        try:
            farewell, last = _Worker(world, stop).serve()
        except LsengineError as error:
            world.send(error, to=0, tag=Tag.FAIL)
            farewell, last = world.wait(Tag.STOP).payload, None
        world.send(last, to=0, tag=Tag.BYE)
    world.flush()
    return farewell.code


class _Worker:
    """One worker's conversation with the coordinator."""

    def __init__(self, world: World, stop: StopRequest) -> None:
        self._world, self._stop = world, stop
        self._farewell: Farewell | None = None
        self._polled = 0.0

    def serve(self) -> tuple[Farewell, Report | None]:
        """Return the coordinator's last word and the report of a chunk given up, if any."""
        world = self._world
        hello = Hello(world.host, usable_cores(), os.environ.get("CUDA_VISIBLE_DEVICES"))
        world.send(hello, to=0, tag=Tag.HELLO)
        message = world.wait(Tag.JOB, Tag.STOP)
        if message.tag is Tag.STOP:
            return message.payload, None
        from lsengine.engine.evaluator import Evaluator  # the job is valid: now torch is needed

        evaluator = Evaluator(message.payload, tick=self._tick, rank=world.rank)
        world.send(evaluator.facts(world.host), to=0, tag=Tag.LOADED)
        message = world.wait(Tag.PLAN, Tag.STOP)
        if message.tag is Tag.STOP:
            return message.payload, None
        plan: Plan = message.payload
        try:
            evaluator.start(plan)
        except Stopped as stopped:
            return self._give_up(Report(Results(), 0.0, str(stopped)))
        writer = Writer(plan.path, world.alone) if plan.parallel else None
        try:
            return self._chunks(evaluator, writer)
        finally:
            if writer is not None:
                writer.close()

    def _chunks(
        self, evaluator: Evaluator, writer: Writer | None
    ) -> tuple[Farewell, Report | None]:
        world = self._world
        world.send(None, to=0, tag=Tag.READY)
        while (message := world.wait(Tag.WORK, Tag.STOP)).tag is Tag.WORK:
            rest = message.payload
            while rest:
                report = evaluator.run(rest)
                rest = rest[len(report.results.cells) :]
                if writer is not None:
                    writer.write(report.results)
                    report.results.values.clear()
                if report.interrupted:
                    return self._give_up(report)
                world.send(report, to=0, tag=Tag.PART if rest else Tag.READY)
        return message.payload, None

    def _give_up(self, report: Report) -> tuple[Farewell, Report | None]:
        """Leave after an interruption: by the coordinator's word, or after telling it."""
        if self._farewell is not None:
            return self._farewell, report
        self._world.send(report, to=0, tag=Tag.READY)
        return self._world.wait(Tag.STOP).payload, None

    def _tick(self) -> None:
        if self._stop:
            raise Stopped(str(self._stop.signal))
        if time.monotonic() - self._polled > _POLL_S:
            self._polled = time.monotonic()
            if (message := self._world.poll(Tag.STOP)) is not None:
                self._farewell = message.payload
                raise Stopped("the coordinator's word")
