"""The coordinator: hands out chunks on demand and lets nobody wait for anybody else.

A chunk is leased to the worker that asked for it; whatever a worker does not report as
finished goes back.  There is no static split and no collective call.
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence

from lsengine.engine.messages import Assignment, Facts, Farewell, Hello, Plan, Report
from lsengine.errors import LsengineError, Stopped
from lsengine.grid import chunk_size
from lsengine.job import Job
from lsengine.ranks import Message, StopRequest, Tag, World
from lsengine.store import Results

log = logging.getLogger(__name__)
_GREETING_S = 10.0
_PARTING_S = 60.0


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
        self._hellos: dict[int, Hello] = {}
        self._slots: dict[int, int] = {}
        self._facts: dict[int, Facts] = {}
        self._cell_s: dict[int, float] = {}
        self._leases: dict[int, list[int]] = {}
        self._idle: deque[int] = deque()
        self._queue: deque[int] = deque()
        self._present = set(range(1, world.size))  # have not said goodbye
        self._dismissed: set[int] = set()
        self._has_given_up = False
        self._sink: Callable[[Results], None] = lambda results: None
        self._blocks: Sequence[int] | None = None

    def greet(self, job: Job) -> None:
        """Tell every worker the job and its place; late ones are told when they come.

        The fair share of cores needs to know who else is on a host, so everybody's first
        message is awaited for a while.
        """
        end = _GREETING_S
        while len(self._hellos) < self._world.size - 1:
            message = self._world.receive(Tag.HELLO, idle=self.check_stop, limit_s=end)
            if message is None:
                late = self._present - self._hellos.keys()
                log.warning("no word yet from ranks %s; starting without them", _ranks(late))
                break
            self._hellos[message.source] = message.payload
        self._job = job
        for rank in sorted(self._hellos):
            self._assign(rank)

    def first_facts(self) -> Facts:
        """Wait for the first worker that has loaded everything, and return its facts."""
        while not self._facts:
            self._handle(self._next())
        return next(iter(self._facts.values()))

    def serve(
        self,
        plan: Plan,
        cells: Iterable[int],
        sink: Callable[[Results], None],
        blocks: Sequence[int] | None = None,
    ) -> None:
        """Have cells evaluated until none is left.

        Args:
            plan: Told to every worker; the first one also checks the centre.
            cells: Flat indices in the order of visiting.
            sink: Called with every chunk's results.
            blocks: For every cell of the grid the block it belongs to, where it is better that
                one worker does a whole block.

        Raises:
            Stopped: If a signal asked for it.
            LsengineError: If a worker cannot work.
        """
        self._plan, self._sink, self._blocks = plan, sink, blocks
        self._queue.extend(cells)
        for rank in list(self._facts):
            self._send_plan(rank)
        while self._queue or self._leases:
            self._handle(self._next())

    def dismiss(self, code: int, *, more: bool = False) -> bool:
        """Tell every worker to leave with ``code`` and wait for the goodbyes.

        What a worker had finished of its chunk still reaches the sink.

        Args:
            code: The exit code all ranks agree on, unless there is more to do.
            more: Whether another job follows, for which the workers stay.

        Returns:
            Whether all have answered within the time limit.
        """
        early: list[Message] = []
        while self._present and not self._has_given_up:
            for rank in (self._present & self._hellos.keys()) - self._dismissed:
                self._world.send(Farewell(code, more), to=rank, tag=Tag.STOP)
                self._dismissed.add(rank)
            message = self._world.receive(limit_s=_PARTING_S)
            if message is None:
                log.error("no answer from ranks %s; ending them", _ranks(self._present))
                self._has_given_up = True
                break
            if message.tag is Tag.HELLO and message.source not in self._present:
                early.append(message)  # about the next job
            elif message.tag is Tag.HELLO:
                self._hellos[message.source] = message.payload
            elif message.tag in (Tag.READY, Tag.PART) and message.payload is not None:
                self._absorb_last(message)
            elif message.tag is Tag.BYE:
                self._present.discard(message.source)
                if message.payload is not None:
                    self._absorb_last(message)
        self._world.put_back(early)
        self._world.flush()
        return not self._has_given_up

    def _absorb_last(self, message: Message) -> None:
        """Absorb a report while parting, when an error can only be told, not acted on."""
        try:
            self._absorb(message.source, message.payload)
        except LsengineError as error:
            log.error("%s", error)  # noqa: TRY400  a user's error needs no traceback
            self._sink = lambda results: None

    def _next(self) -> Message:
        message = self._world.receive(idle=self.check_stop)
        assert message is not None
        return message

    def check_stop(self) -> None:
        """Raise `Stopped` if a signal asked for it."""
        if self._stop:
            raise Stopped(f"stopped by {self._stop.signal}")

    def _handle(self, message: Message) -> None:
        rank, payload = message.source, message.payload
        if message.tag is Tag.HELLO:
            self._hellos[rank] = payload
            if self._job is not None:
                self._assign(rank)
        elif message.tag is Tag.LOADED:
            self._warn_if_shared(rank, payload)
            self._warn_if_different(rank, payload)
            self._facts[rank] = payload
            if self._plan is not None:
                self._send_plan(rank)
        elif message.tag is Tag.PART:
            self._absorb(rank, payload, goes_on=True)
        elif message.tag is Tag.READY:
            if payload is not None:
                self._absorb(rank, payload)
            self._idle.append(rank)
            self._hand_out()
        elif message.tag is Tag.FAIL:
            raise _named(payload, rank, self._hellos[rank].host)

    def _assign(self, rank: int) -> None:
        assert self._job is not None
        slot, threads = place(rank, self._hellos, self._slots)
        self._slots[rank] = slot
        self._world.send(Assignment(self._job, slot, threads), to=rank, tag=Tag.JOB)

    def _send_plan(self, rank: int) -> None:
        assert self._plan is not None
        first = rank == next(iter(self._facts))
        self._world.send(self._plan.for_(checks=first), to=rank, tag=Tag.PLAN)

    def _absorb(self, rank: int, report: Report, *, goes_on: bool = False) -> None:
        """Take note of finished cells; what a worker does not go on with goes back."""
        finished = set(report.results.cells)
        rest = [c for c in self._leases.pop(rank, []) if c not in finished]
        if goes_on:
            self._leases[rank] = rest
        else:
            self._queue.extendleft(reversed(rest))
        if finished:
            self._cell_s[rank] = report.seconds / len(finished)
            self._sink(report.results)
        if report.interrupted and rank not in self._dismissed:
            self._stop.request(f"{report.interrupted} on rank {rank}")

    def _hand_out(self) -> None:
        while self._idle and self._queue and not self._stop:
            rank = self._idle.popleft()
            size = self._chunk or chunk_size(
                len(self._queue), self._world.size - 1, self._cell_s.get(rank, 0.0)
            )
            if self._blocks is not None and self._chunk is None:
                size = max(size, self._rest_of_block())
            chunk = [self._queue.popleft() for _ in range(min(size, len(self._queue)))]
            self._leases[rank] = chunk
            self._world.send(chunk, to=rank, tag=Tag.WORK)

    def _warn_if_different(self, rank: int, facts: Facts) -> None:
        for other, theirs in itertools.islice(self._facts.items(), 1):
            if different := _differences(facts, theirs):
                log.warning(
                    "ranks %d and %d differ in %s; their cells agree to the precision's "
                    "tolerance, not bit by bit",
                    *(rank, other, ", ".join(different)),
                )

    def _rest_of_block(self) -> int:
        """Return how many cells at the head of the queue share a block, or a fair share of all.

        Whoever begins a block should end it: every worker in it needs its coarse cell's vectors.
        """
        blocks = self._blocks
        assert blocks is not None
        share = max(1, len(self._queue) // (2 * (self._world.size - 1)))
        head = list(itertools.islice(self._queue, share))
        return len(list(itertools.takewhile(lambda c: blocks[c] == blocks[head[0]], head)))

    def _warn_if_shared(self, rank: int, facts: Facts) -> None:
        for other, theirs in self._facts.items():
            if facts.device_id and facts.device_id == theirs.device_id:
                log.warning(
                    "ranks %d and %d share one card (%s on %s); start one worker per card, "
                    "and one rank more for the coordinator",
                    *(other, rank, facts.device_kind, facts.host),
                )


def _differences(facts: Facts, others: Facts) -> list[str]:
    names = ("device_kind", "torch_version", "threads")
    pairs = [(n, getattr(facts, n), getattr(others, n)) for n in names]
    return [f"{name} {mine!r} and {theirs!r}" for name, mine, theirs in pairs if mine != theirs]


def place(rank: int, hellos: Mapping[int, Hello], slots: Mapping[int, int]) -> tuple[int, int]:
    """Return a worker's number among its equals, which chooses its device, and its threads.

    Workers are equals if they are on one host and see the same devices: a launcher that gives
    each its own device makes each number 0.  Every core of a host is shared among those that may
    use it, bound or not; the coordinator does not count, as it does not compute.

    Args:
        rank: The worker.
        hellos: Of all workers heard of so far, it among them.
        slots: Numbers given to workers already; the smallest free one is given next.
    """
    mine = hellos[rank]
    peers = {r: h for r, h in hellos.items() if h.host == mine.host}
    users = Counter(core for hello in peers.values() for core in hello.cores)
    share = sum(1 / users[core] for core in mine.cores)
    taken = {slots[r] for r, h in peers.items() if r in slots and h.visible == mine.visible}
    slot = next(number for number in itertools.count() if number not in taken)
    return slot, max(1, int(share + 1e-9))


def _named(error: LsengineError, rank: int, host: str) -> LsengineError:
    """Say where an error happened; that of a worker may be its host's alone."""
    error.args = (f"{error} (rank {rank} on {host})",)
    return error


def _ranks(ranks: Iterable[int]) -> str:
    return ", ".join(str(r) for r in sorted(ranks))
