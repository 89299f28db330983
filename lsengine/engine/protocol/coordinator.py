"""The coordinator: hands out chunks on demand and lets nobody wait for anybody else.

A chunk is leased to the worker that asked for it; whatever a worker does not report as
finished goes back.  There is no static split and no collective call.  Where the launcher lets the
others live, a worker that dies costs the cells it had in hand, and one that hangs holds nobody up.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from lsengine.engine.messages import Farewell, Hello, Plan, Report, VisibleDevices, WorkerInfo
from lsengine.engine.options import Options
from lsengine.engine.protocol.leases import Leases, report_interval
from lsengine.engine.protocol.placement import Placement
from lsengine.engine.protocol.roster import Roster, Shutdown
from lsengine.engine.protocol.worker import LocalWorker, Make
from lsengine.errors import LsengineError, Stopped
from lsengine.job import Job
from lsengine.ranks import Message, StopRequest, Tag, World
from lsengine.store import CellResults
from lsengine.wording import listed

log = logging.getLogger(__name__)
_FIRST_HELLOS_S = 10.0
_NAPS_S = 0.002, 0.02  # between two looks into the mailbox, at most
_LOOK_EVERY_S = 0.1
_MOST_LISTED = 8


class Coordinator:
    """Rank 0's side of the conversation about one job; alone, it evaluates by itself.

    ``stop`` becomes true when the run shall end early.
    """

    def __init__(self, world: World, stop: StopRequest, options: Options | None = None) -> None:
        self._world, self._stop, self._options = world, stop, options or Options()
        self._job: Job | None = None
        self._plan: Plan | None = None
        self._placement = Placement(Hello.here(world.host) if world.size > 1 else None)
        self._roster = Roster(world, self._placement.hellos)
        self._leases = Leases((), 1)
        self._idle: deque[int] = deque()
        self._local: LocalWorker | None = None  # of rank 0, if it takes part
        self._checker: int | None = None
        self._checked: set[int] = set()  # workers that have asked for their first cells
        self._nap_s, self._looked = _NAPS_S[0], 0.0
        self._sink: Callable[[CellResults], None] = lambda results: None

    def assign_all(self, job: Job, *, settled_threads: int = 0) -> None:
        """Tell every worker the job, its device and its threads; late ones when they come.

        Of a surface that is gone on with the threads are ``settled``.
        The fair share of cores needs to know who else is on a host, so everybody's first
        message is awaited for a while.
        """
        hellos = self._placement.hellos
        while late := self._roster.present - hellos.keys():
            message = self._world.receive(
                Tag.HELLO, idle=self._stop.raise_if_requested, limit_s=_FIRST_HELLOS_S
            )
            if message is None:
                shown = listed(sorted(late), most=_MOST_LISTED)
                log.warning("no word yet from ranks %s; starting without them", shown)
                break
            hellos[message.source] = message.payload
        self._job, self._placement.settled = job, settled_threads
        for rank in sorted(hellos):
            self._assign(rank)

    def first_info(self) -> WorkerInfo:
        """Return where the values come from: of the first rank that has loaded everything."""
        while not self._placement.infos:
            self._handle(self._next())
        return next(iter(self._placement.infos.values()))

    def join_in(self, make: Make, devices: VisibleDevices) -> bool:
        """Let rank 0 evaluate, too, if it is alone or would leave a device or a core idle.

        Waits for the first worker, if there is any.  ``make`` makes rank 0's workspace, which
        sees ``devices``.  Returns whether it takes part.
        """
        assert self._job is not None
        hello = replace(Hello.here(self._world.host), visible=devices.visible)
        if self._world.size == 1:
            self._placement.hellos[0] = hello
            assignment = self._placement.assign(0, self._job)
        else:
            self.first_info()
            idle_place = self._placement.assign_coordinator(hello, devices, self._job)
            if idle_place is None:
                return False
            log.info("rank 0 evaluates, too: without it a device or a core would be idle")
            assignment = idle_place
        patience_s = self._patience_s if self._options.end_if_hung else math.inf
        self._local = LocalWorker(assignment, make, self._serve_others, patience_s)
        if self._world.size == 1:
            self._placement.loaded(0, self._local.info(hello.host))
        return True

    def serve(
        self,
        plan: Plan,
        cells: Iterable[int],
        sink: Callable[[CellResults], None],
        *,
        blocks: Sequence[int] | None = None,
    ) -> None:
        """Have cells evaluated until none is left.

        Args:
            plan: Told to every worker; the first one also checks the centre.
            cells: Flat indices in the order of visiting.
            sink: Called with every chunk's results.
            blocks: See `Leases`.

        Raises:
            Stopped: If a signal asked for it, or nobody is left to work.
            LsengineError: If a worker cannot work.
        """
        self._sink, local = sink, self._local
        workers = self._world.size - 1 + (local is not None)
        report_s = report_interval(workers, gathers=not plan.parallel)
        self._plan, chunk = replace(plan, report_s=report_s), self._options.chunk
        self._leases = Leases(cells, workers, chunk=chunk, report_s=report_s, blocks=blocks)
        for rank in [rank for rank in self._placement.infos if rank]:
            self._send_plan(rank)
        if local is not None:
            report = local.begin(self._plan_for(0))
            if report is not None:
                self._absorb(0, report)
            if 0 not in self._placement.infos:
                self._placement.loaded(0, local.info(self._world.host))
        while self._leases or self._awaits_check:
            if local is not None and self._leases.waiting:
                local.run(self._leases.take(0), self._absorb_local)
            else:
                self._handle(self._next())

    def shut_down(self, code: int) -> None:
        """Tell every worker to leave with ``code`` and wait for the goodbyes, within limits.

        What a worker had finished of its chunk still reaches the sink.
        """
        # Where ranks survive the death of others, a worker does not wait for them when it leaves,
        # and one that left with another code would end rank 0, which has to close the file.
        survives = self._world.survives_rank_death
        self._part(Farewell(0 if survives else code, more=False))
        if survives:
            self._world.skip_finalize()

    def release(self) -> None:
        """Tell every worker that this job has ended and another one follows."""
        self._part(Farewell(0, more=True))

    @property
    def _patience_s(self) -> float:
        """How long a worker may be silent; without end while no job is known."""
        return math.inf if self._job is None else self._job.document.launch.hang_s

    def _part(self, farewell: Farewell) -> None:
        Shutdown(
            world=self._world,
            roster=self._roster,
            placement=self._placement,
            reap_dead=self._reap_dead,
            absorb=self._absorb_last,
            patience_s=self._patience_s,
        ).run(farewell)

    def _next(self) -> Message:
        def idle() -> None:
            self._stop.raise_if_requested()
            self._look_after_workers()

        message = self._world.receive(idle=idle, nap_s=self._nap_s)
        assert message is not None
        return message

    def _serve_others(self) -> None:
        """Do what waits, while rank 0 evaluates."""
        self._stop.raise_if_requested()
        while (message := self._world.poll()) is not None:
            self._handle(message)
        self._look_after_workers()  # after what they have told while this rank was busy

    def _look_after_workers(self) -> None:
        """Give away what dead and silent workers had in hand; now and then, as it asks for all."""
        if time.monotonic() < self._looked + _LOOK_EVERY_S:
            return
        self._looked = time.monotonic()
        self._reap_dead()
        for rank, seconds in self._leases.silent(self._patience_s).items():
            cells = self._leases.give_back(rank)
            self._roster.silent.add(rank)
            if self._world.survives_rank_death:
                # Stopped in the middle of a write it keeps MPI-IO's lock on that cell, and whoever
                # takes the cell over waits for it.
                self._roster.kill(rank)
            log.error(
                f"rank {rank} on {self._placement.hellos[rank].host} has been silent for "
                f"{seconds:.0f} s; others take its cells {listed(cells, most=_MOST_LISTED)}"
            )
            self._hand_out()
        if not self._roster.present - self._roster.silent and self._local is None:
            shown = listed(sorted(self._roster.silent), most=_MOST_LISTED)
            raise Stopped("no worker is left" + (f"; ranks {shown} are silent" if shown else ""))

    def _reap_dead(self) -> None:
        """Take note of workers that have died."""
        for rank in self._roster.dead():
            cells = self._leases.give_back(rank)
            host = self._placement.forget(rank)
            self._roster.present.discard(rank)
            if rank == self._checker:
                self._checker = None
            self._idle = deque(r for r in self._idle if r != rank)
            shown = listed(cells, most=_MOST_LISTED)
            what = f"others take its cells {shown}" if cells else "it had no cells in hand"
            log.error("rank %d on %s has died; %s", rank, host, what)
            self._hand_out()

    def _handle(self, message: Message) -> None:
        rank, payload = message.source, message.payload
        if message.tag == Tag.HELLO:
            self._placement.hellos[rank] = payload
            if self._job is not None:
                self._assign(rank)
        elif message.tag == Tag.LOADED:
            self._placement.loaded(rank, payload)
            if self._plan is not None:
                self._send_plan(rank)
        elif message.tag == Tag.PART:
            self._absorb(rank, payload, goes_on=True)
        elif message.tag == Tag.READY:
            if payload is not None:
                self._absorb(rank, payload)
            self._checked.add(rank)
            self._idle.append(rank)
            self._hand_out()
        elif message.tag == Tag.FAIL:
            host = self._placement.hellos[rank].host  # the error may be its host's alone
            payload.args = (f"{payload} (rank {rank} on {host})",)
            raise payload

    def _assign(self, rank: int) -> None:
        assert self._job is not None
        self._world.send(self._placement.assign(rank, self._job), to=rank, tag=Tag.JOB)

    def _send_plan(self, rank: int) -> None:
        self._world.send(self._plan_for(rank), to=rank, tag=Tag.PLAN)

    @property
    def _awaits_check(self) -> bool:
        """Whether the error of a fast precision is still measured, when all cells are done."""
        is_fast = self._plan is not None and self._plan.precision not in ("float32", "float64")
        return is_fast and bool(self._checker) and self._checker not in self._checked

    def _plan_for(self, rank: int) -> Plan:
        """Return the plan for a rank; the first one that asks checks the centre."""
        assert self._plan is not None
        if self._checker is None:
            self._checker = rank
        return replace(self._plan, check=rank == self._checker)

    def _absorb_local(self, report: Report, goes_on: bool) -> None:
        self._absorb(0, report, goes_on=goes_on)
        self._stop.raise_if_requested()

    def _absorb(self, rank: int, report: Report, *, goes_on: bool = False) -> None:
        """Take note of finished cells; what a worker does not go on with goes back."""
        self._roster.silent.discard(rank)
        results = report.results
        if results.cells:  # a worker that asks waits for one nap at most: 1 % of a cell's time
            wanted_s = report.seconds / len(results.cells) / 100
            self._nap_s = min(max(wanted_s, _NAPS_S[0]), _NAPS_S[1])
        new = self._leases.finish(rank, results.cells, report.seconds, goes_on=goes_on)
        if new or results.precision_error:
            self._sink(results if len(new) == len(results.cells) else results.of(new))
        if report.interrupted and rank not in self._roster.dismissed:
            self._stop.request(f"{report.interrupted} on rank {rank}")

    def _absorb_last(self, rank: int, report: Report) -> None:
        """Absorb a report while parting, when an error can only be told, not acted on."""
        try:
            self._absorb(rank, report)
        except LsengineError as error:
            log.error("%s", error)  # noqa: TRY400  a user's error needs no traceback
            self._sink = lambda results: None

    def _hand_out(self) -> None:
        while self._idle and self._leases.waiting and not self._stop:
            rank = self._idle.popleft()
            self._world.send(self._leases.take(rank), to=rank, tag=Tag.WORK)
