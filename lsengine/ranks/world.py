"""Ranks: the only door to MPI.

Waiting never blocks inside MPI, where it would keep a core busy: every wait probes and sleeps,
a little longer each time.  Nothing here is collective after start-up.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from lsengine.errors import Stopped
from lsengine.ranks.exit import skipping_finalize, unresponsive

_SHORTEST_S, _LONGEST_S = 0.0005, 0.02
_OF_THE_WAIT = 0.02  # so much later a message may be found, of what has been waited for it
_LOST_EVERY_S = 0.25


class Tag(IntEnum):
    """What a message is; its payload is described where it is sent."""

    HELLO = 1  # worker: Hello
    JOB = 2  # coordinator: Assignment
    LOADED = 3  # worker: Facts
    PLAN = 4  # coordinator: Plan
    READY = 5  # worker: Report, or None before its first chunk
    WORK = 6  # coordinator: cells
    STOP = 7  # coordinator: Farewell; the last message to a worker about a job
    BYE = 8  # worker: Report of a chunk given up, or None; its last message about a job
    PART = 10  # worker: Report on a chunk it goes on with
    FAIL = 9  # worker: the LsengineError that keeps it from working
    FOUND = 11  # doctor, to rank 0: what was asked for
    RING = 12  # doctor, to the next rank: the ranks it has passed, and when
    TRY = 13  # doctor, from rank 0: a seat, a file to write to, and whether to


@dataclass(frozen=True, slots=True)
class Message:
    """One received message."""

    source: int
    tag: Tag
    payload: Any


class World:
    """The ranks of this launch, with messages that never block.

    Attributes:
        rank: This process; 0 is the coordinator.
        size: Number of ranks.
        host: Name of this host.
        alone: A communicator of this process alone, for independent parallel files.
        library: Name and version of the MPI library.
        outlives: Whether the launcher lets the others live when a rank dies.
    """

    def __init__(self, comm: Any, comm_self: Any, library: str) -> None:
        self._comm, self.comm_self, self.library = comm, comm_self, library
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self.host = socket.gethostname()
        self._pending: list[Any] = []
        self._inbox: deque[Message] = deque()
        self._lost: set[int] = set()
        self._asked = 0.0
        self.survives_rank_death = survives_rank_death()
        if self.survives_rank_death:
            from mpi4py import MPI

            self._comm.Set_errhandler(MPI.ERRORS_RETURN)

    def local_rank_and_size(self) -> tuple[int, int]:
        """Return this rank's number on its host and how many ranks are there; **collective**."""
        from mpi4py import MPI

        local = self._comm.Split_type(MPI.COMM_TYPE_SHARED)
        place = local.Get_rank(), local.Get_size()
        local.Free()
        return place

    def lost(self) -> frozenset[int]:
        """Return the ranks that have died; without fault tolerance nobody lives to ask.

        Cheap: MPI is asked a few times a second, however often this is called.
        """
        if self.survives_rank_death and time.monotonic() - self._asked > _LOST_EVERY_S:
            self._asked = time.monotonic()
            self._take_note_of_the_dead()
        return frozenset(self._lost | unresponsive)

    def skip_finalize(self) -> None:
        """Remember that not all ranks may come to an orderly end; see `leave`."""
        skipping_finalize.add(self.rank)

    def mark_unresponsive(self, ranks: Iterable[int]) -> None:
        """Count ranks as lost that do not answer, and remember to end them; see `leave`."""
        unresponsive.update(ranks)

    def _take_note_of_the_dead(self) -> None:
        from mpi4py import MPI

        failed = self._comm.Get_failed()
        if failed.Get_size() > len(self._lost):
            here = self._comm.Get_group()
            dead = MPI.Group.Translate_ranks(failed, list(range(failed.Get_size())), here)
            self._lost |= set(dead)
            self._comm.Ack_failed(failed.Get_size())  # else no message from anybody is taken
            self.skip_finalize()

    def send(self, payload: Any, *, to: int, tag: Tag) -> None:
        """Send without waiting for the receiver; to a dead one, nothing happens."""
        self._pending = [r for r in self._pending if not self._has_left(r)]
        try:
            self._pending.append(self._comm.isend(payload, dest=to, tag=int(tag)))
        except Exception:
            if not self._is_about_the_dead():
                raise

    def _has_left(self, request: Any) -> bool:
        try:
            return bool(request.test()[0])
        except Exception:
            if not self._is_about_the_dead():
                raise
            return True

    def _is_about_the_dead(self) -> bool:
        """Whether an exception of MPI's may come from a rank that has died."""
        if self.survives_rank_death:
            self._take_note_of_the_dead()
        return bool(self._lost)

    def poll(self, *tags: Tag) -> Message | None:
        """Return the oldest message, of the given tags if any are given; None if there is none.

        Messages are taken from MPI in the order of their arrival, whatever their tags: a probe
        for one tag may miss what a probe for the next one finds.
        """
        self._fetch()
        for message in self._inbox:
            if not tags or message.tag in tags:
                self._inbox.remove(message)
                return message
        return None

    def put_back(self, messages: Iterable[Message]) -> None:
        """Let messages be received again, before all others."""
        self._inbox.extendleft(reversed(list(messages)))

    def forget(self) -> None:
        """Drop everything that has arrived and was not asked for."""
        self._fetch()
        self._inbox.clear()

    def _fetch(self) -> None:
        from mpi4py import MPI

        status, misses = MPI.Status(), 0
        # Two misses end it: the first probe may only fetch a message from the transport (Open
        # MPI), and it would be found a whole nap later.
        while misses < 2:
            try:
                found = self._comm.improbe(source=MPI.ANY_SOURCE, tag=MPI.ANY_TAG, status=status)
            except MPI.Exception:
                if not self._is_about_the_dead():
                    raise
                found = None
            if found is None:
                misses += 1
            else:
                message = Message(status.source, Tag(status.tag), found.recv())
                if message.source not in unresponsive:
                    self._inbox.append(message)

    def receive(
        self,
        *tags: Tag,
        idle: Callable[[], None] = lambda: None,
        limit_s: float | None = None,
        nap_s: float = _LONGEST_S,
    ) -> Message | None:
        """Wait for a message without using the processor; None when the time is up.

        Args:
            tags: Wanted kinds; all if none are given.
            idle: Called between probes; may raise to stop waiting.
            limit_s: Longest wait.
            nap_s: Longest time between two looks, as long as it does not take long: a wait of
                seconds can do with longer ones.

        Raises:
            Stopped: On another rank than 0, when rank 0 has died.
        """
        begin, pause = time.monotonic(), _SHORTEST_S
        end = None if limit_s is None else begin + limit_s
        while (message := self.poll(*tags)) is None:
            idle()
            self.check_coordinator()
            if end is not None and time.monotonic() > end:
                return None
            time.sleep(pause)
            longest = max(nap_s, min(_LONGEST_S, _OF_THE_WAIT * (time.monotonic() - begin)))
            pause = min(longest, pause * 1.5)
        return message

    def check_coordinator(self) -> None:
        """Raise `Stopped` if rank 0 has died: nobody can say what to do next."""
        if self.rank and 0 in self.lost():
            raise Stopped("rank 0 has died; the same command goes on")

    def wait(self, *tags: Tag) -> Message:
        """Wait for a message without a time limit."""
        message = self.receive(*tags)
        assert message is not None
        return message

    def flush(self, limit_s: float = 10.0) -> None:
        """Wait until everything sent has left, within a time limit."""
        end = time.monotonic() + limit_s
        while any(not self._has_left(r) for r in self._pending) and time.monotonic() < end:
            time.sleep(_SHORTEST_S)
        self._pending = []


def survives_rank_death() -> bool:
    """Whether the launcher lets ranks live when one dies: Open MPI's, with --with-ft ulfm."""
    return os.environ.get("OMPI_MCA_mpi_ft_enable") == "1"  # noqa: SIM112
