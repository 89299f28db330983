"""The coordinator: hands out chunks on demand and lets nobody wait for anybody else.

A chunk is leased to the worker that asked for it; whatever a worker does not report as
finished goes back.  There is no static split and no collective call.  Where the launcher lets the
others live, a worker that dies costs the cells it had in hand, and one that hangs holds nobody up.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lsengine.engine.messages import Assignment, Farewell, Hello, Plan, Report, WorkerInfo
from lsengine.engine.protocol.leases import Leases, named, report_interval
from lsengine.engine.protocol.placement import Devices, Placement
from lsengine.engine.protocol.watchdog import Watchdog
from lsengine.errors import LsengineError, Stopped
from lsengine.job import Job
from lsengine.ranks import Message, StopRequest, Tag, World
from lsengine.store import CellResults

if TYPE_CHECKING:
    from lsengine.engine.evaluator import Evaluator


log = logging.getLogger(__name__)
_GREETING_S = 10.0
_PARTING_S = 60.0
_NAPS_S = 0.002, 0.02  # between two looks into the mailbox, at most
_LOOK_EVERY_S = 0.1
_SILENT_S = 2.0  # for those who have been silent for long already
Own = Callable[[Callable[[], None]], "Evaluator"]


class Coordinator:
    """Rank 0's side of the conversation.

    Args:
        world: The ranks.
        stop: Becomes true when the run shall end early.
        chunk: Cells per chunk, or None to go by measured time.
    """

    def __init__(self, world: World, stop: StopRequest, chunk: int | None = None) -> None:
        self._world, self._stop, self._chunk = world, stop, chunk
        self._job: Job | None = None
        self._plan: Plan | None = None
        self._places = Placement()
        self._hellos = self._places.hellos
        self._leases = Leases((), 1)
        self._idle: deque[int] = deque()
        self._present = set(range(1, world.size)) - world.lost()  # have not said goodbye
        self._silent: set[int] = set()
        self._watchdog: Watchdog | None = None  # of the rank itself, if it takes part
        self._patience_s = math.inf
        self._checker: int | None = None
        self._nap_s, self._looked = _NAPS_S[0], 0.0
        self._error: Exception | None = None
        self._dismissed: set[int] = set()
        self._sink: Callable[[CellResults], None] = lambda results: None

    def greet(self, job: Job) -> None:
        """Tell every worker the job and its place; late ones are told when they come.

        The fair share of cores needs to know who else is on a host, so everybody's first
        message is awaited for a while.
        """
        end = _GREETING_S
        while self._present - self._hellos.keys():
            message = self._world.receive(Tag.HELLO, idle=self.check_stop, limit_s=end)
            if message is None:
                late = self._present - self._hellos.keys()
                log.warning("no word yet from ranks %s; starting without them", _ranks(late))
                break
            self._hellos[message.source] = message.payload
        self._job = job
        for rank in sorted(self._hellos):
            self._assign(rank)

    def first_facts(self) -> WorkerInfo:
        """Wait for the first worker that has loaded everything, and return its facts."""
        while not self._places.facts:
            self._handle(self._next())
        return next(iter(self._places.facts.values()))

    def serve(
        self,
        plan: Plan,
        cells: Iterable[int],
        sink: Callable[[CellResults], None],
        *,
        blocks: Sequence[int] | None = None,
        own: Own | None = None,
    ) -> None:
        """Have cells evaluated until none is left.

        Args:
            plan: Told to every worker; the first one also checks the centre.
            cells: Flat indices in the order of visiting.
            sink: Called with every chunk's results.
            blocks: See `Leases`.
            own: Makes this rank's own evaluator, if it takes part: called once with what to
                call before every mini-batch.

        Raises:
            Stopped: If a signal asked for it, or nobody is left to work.
            LsengineError: If a worker cannot work.
        """
        assert self._job is not None
        self._sink = sink
        self._patience_s = self._job.document.launch.hang_s
        workers = self._world.size - 1 + (own is not None)
        report_s = report_interval(workers, gathers=not plan.parallel)
        self._plan = replace(plan, report_s=report_s)
        self._leases = Leases(cells, workers, chunk=self._chunk, report_s=report_s, blocks=blocks)
        for rank in list(self._places.facts):
            self._send_plan(rank)
        evaluator = self._begin_here(own) if own is not None else None
        while self._leases:
            if evaluator is not None and self._leases.waiting:
                self._take_part(evaluator)
            else:
                self._handle(self._next())

    def _begin_here(self, own: Own) -> Evaluator:
        self._watchdog = Watchdog(self._patience_s)
        self._watchdog.progress()
        try:
            evaluator = own(self._between_batches)
        except Stopped:
            raise self._error or Stopped("rank 0") from None
        finally:
            self._watchdog.rest()
        self._places.loaded(0, evaluator.facts(self._world.host))
        return evaluator

    def _take_part(self, evaluator: Evaluator) -> None:
        """Evaluate some cells here, serving the others between mini-batches."""
        assert self._watchdog is not None
        rest = self._leases.take(0)
        self._watchdog.progress()
        try:
            while rest:
                report = evaluator.run(rest)
                if self._error is not None:
                    raise self._error
                self.check_stop()
                rest = rest[len(report.results.cells) :]
                self._absorb(0, report, goes_on=bool(rest))
        finally:
            self._watchdog.rest()

    def _between_batches(self) -> None:
        """Serve the others; a mistake here must not pass for one of the cell's."""
        assert self._watchdog is not None
        self._watchdog.progress()
        try:
            self.check_stop()
            while (message := self._world.poll()) is not None:
                self._handle(message)
            self._look_after_workers()  # after what they have told while this rank was busy
        except Exception as error:
            self._error = error
            raise Stopped("rank 0") from error

    def place_here(self, cores: frozenset[int], devices: Devices) -> Assignment | None:
        """Return this rank's place if it leaves a device or a core idle, else None.

        Args:
            cores: Processor cores this rank may use.
            devices: See `Places.assign_here`.
        """
        assert self._job is not None
        hello = Hello(self._world.host, os.getpid(), cores, devices[2])
        return self._places.assign_here(hello, devices, self._job)

    def dismiss(self, code: int, *, more: bool = False) -> None:
        """Tell every worker to leave with ``code`` and wait for the goodbyes, within limits.

        What a worker had finished of its chunk still reaches the sink.

        Args:
            code: The exit code all ranks agree on, unless there is more to do.
            more: Whether another job follows, for which the workers stay.  Who has not even said
                hello is not waited for then.
        """
        if self._world.survives_rank_death:
            # There, a worker does not wait for the others when it leaves, and one that left with
            # another code would end them, rank 0 among them, which still has to close the file.
            code = 0
        early: list[Message] = []
        heard = time.monotonic()
        while awaited := self._present & self._hellos.keys() if more else self._present:
            for rank in (self._present & self._hellos.keys()) - self._dismissed:
                self._world.send(Farewell(code, more), to=rank, tag=Tag.STOP)
                self._dismissed.add(rank)
            self._bury()
            message = self._world.receive(limit_s=0.5)
            if message is None:
                if time.monotonic() > heard + self._parting_s(awaited):
                    self._give_up(awaited)
                continue
            heard = time.monotonic()
            if message.tag == Tag.HELLO and (more or message.source not in self._present):
                early.append(message)  # about the next job
            elif message.tag == Tag.HELLO:
                self._hellos[message.source] = message.payload
            elif message.tag in (Tag.READY, Tag.PART) and message.payload is not None:
                self._absorb_last(message)
            elif message.tag == Tag.BYE:
                self._present.discard(message.source)
                if message.payload is not None:
                    self._absorb_last(message)
        self._world.put_back(early)
        self._world.flush()
        if not more and self._world.survives_rank_death:
            self._world.skip_finalize()

    def _parting_s(self, awaited: set[int]) -> float:
        """Return how long nobody may be heard of while goodbyes are awaited."""
        if awaited <= self._silent:
            return _SILENT_S
        if (awaited - self._silent) & self._places.facts.keys():
            return _PARTING_S
        return min(_PARTING_S, self._patience_s)  # they have not begun, and hold nothing

    def _give_up(self, absent: set[int]) -> None:
        """Leave without those who do not answer, whose cells others have done."""
        log.warning("no answer from ranks %s; leaving without them", _ranks(absent))
        # Where others outlive it, a killed worker changes nothing; elsewhere it would be the end of
        # all, with its status.  The launcher is then asked to end all, with the agreed code.
        killed = {rank for rank in absent if self._world.survives_rank_death and self._kill(rank)}
        self._world.mark_unresponsive(absent - killed)
        self._present -= absent

    def _kill(self, rank: int) -> bool:
        """End a worker of this host by a signal; return whether it is one that can be seen here."""
        hello = self._hellos.get(rank)
        if hello is None or hello.host != self._world.host or not _is_rank(hello.pid, rank):
            return False
        with contextlib.suppress(OSError):
            os.kill(hello.pid, signal.SIGKILL)
        return True

    def _absorb_last(self, message: Message) -> None:
        """Absorb a report while parting, when an error can only be told, not acted on."""
        try:
            self._absorb(message.source, message.payload)
        except LsengineError as error:
            log.error("%s", error)  # noqa: TRY400  a user's error needs no traceback
            self._sink = lambda results: None

    def _next(self) -> Message:
        def idle() -> None:
            self.check_stop()
            self._look_after_workers()

        message = self._world.receive(idle=idle, nap_s=self._nap_s)
        assert message is not None
        return message

    def _look_after_workers(self) -> None:
        """Give away what dead and silent workers had in hand; now and then, as it asks for all."""
        if time.monotonic() < self._looked + _LOOK_EVERY_S:
            return
        self._looked = time.monotonic()
        self._bury()
        for rank, seconds in self._leases.silent(self._patience_s).items():
            cells = self._leases.give_back(rank)
            self._silent.add(rank)
            if self._world.survives_rank_death:
                # Stopped in the middle of a write it keeps MPI-IO's lock on that cell, and whoever
                # takes the cell over waits for it.
                self._kill(rank)
            log.error(
                "rank %d on %s has been silent for %.0f s; others take its cells %s",
                *(rank, self._hellos[rank].host, seconds, named(cells)),
            )
            self._hand_out()
        if not self._present - self._silent and self._watchdog is None:
            silent = f"; ranks {_ranks(self._silent)} are silent" if self._silent else ""
            raise Stopped(f"no worker is left{silent}")

    def _bury(self) -> None:
        """Take note of workers that have died."""
        for rank in self._world.lost() & self._present:
            cells = self._leases.give_back(rank)
            host = self._places.forget(rank)
            self._present.discard(rank)
            if rank == self._checker:
                self._checker = None
            self._idle = deque(r for r in self._idle if r != rank)
            what = f"others take its cells {named(cells)}" if cells else "it had no cells in hand"
            log.error("rank %d on %s has died; %s", rank, host, what)
            self._hand_out()

    def check_stop(self) -> None:
        """Raise `Stopped` if a signal asked for it."""
        if self._stop:
            raise Stopped(f"stopped by {self._stop.signal}")

    def _handle(self, message: Message) -> None:
        rank, payload = message.source, message.payload
        if message.tag == Tag.HELLO:
            self._hellos[rank] = payload
            if self._job is not None:
                self._assign(rank)
        elif message.tag == Tag.LOADED:
            self._places.loaded(rank, payload)
            if self._plan is not None:
                self._send_plan(rank)
        elif message.tag == Tag.PART:
            self._absorb(rank, payload, goes_on=True)
        elif message.tag == Tag.READY:
            if payload is not None:
                self._absorb(rank, payload)
            self._idle.append(rank)
            self._hand_out()
        elif message.tag == Tag.FAIL:
            raise _named(payload, rank, self._hellos[rank].host)

    def _assign(self, rank: int) -> None:
        assert self._job is not None
        self._world.send(self._places.assign(rank, self._job), to=rank, tag=Tag.JOB)

    def _send_plan(self, rank: int) -> None:
        assert self._plan is not None
        if self._checker is None:
            self._checker = rank
        plan = self._plan.for_(checks=rank == self._checker)
        self._world.send(plan, to=rank, tag=Tag.PLAN)

    def _absorb(self, rank: int, report: Report, *, goes_on: bool = False) -> None:
        """Take note of finished cells; what a worker does not go on with goes back."""
        self._silent.discard(rank)
        results = report.results
        if results.cells:  # whoever asks for cells waits through a nap: a hundredth of one's time
            wanted_s = report.seconds / len(results.cells) / 100
            self._nap_s = min(max(wanted_s, _NAPS_S[0]), _NAPS_S[1])
        new = self._leases.finish(rank, results.cells, report.seconds, goes_on=goes_on)
        if new:
            self._sink(results if len(new) == len(results.cells) else results.of(new))
        if report.interrupted and rank not in self._dismissed:
            self._stop.request(f"{report.interrupted} on rank {rank}")

    def _hand_out(self) -> None:
        while self._idle and self._leases.waiting and not self._stop:
            rank = self._idle.popleft()
            self._world.send(self._leases.take(rank), to=rank, tag=Tag.WORK)


def _named(error: LsengineError, rank: int, host: str) -> LsengineError:
    """Say where an error happened; that of a worker may be its host's alone."""
    error.args = (f"{error} (rank {rank} on {host})",)
    return error


def _is_rank(process: int, rank: int) -> bool:
    """Whether a process of this host is a rank of this launch.

    In a container of its own a worker counts its processes from 1, and here the number is that
    of somebody else's.
    """
    try:
        variables = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    launch = os.environ.get("PMIX_NAMESPACE", "")
    wanted = {f"OMPI_COMM_WORLD_RANK={rank}".encode(), f"PMIX_NAMESPACE={launch}".encode()}
    return wanted <= set(variables)


def _ranks(ranks: Iterable[int]) -> str:
    return ", ".join(str(r) for r in sorted(ranks))
