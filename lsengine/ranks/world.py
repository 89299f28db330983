"""The ranks of a launch, and messages between them.

Waiting never blocks inside MPI, where it would keep a core busy: every wait probes and sleeps,
a little longer each time.  Nothing here is collective after start-up.
"""

from __future__ import annotations

import math
import os
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from lsengine.errors import Stopped

_SHORTEST_S, _LONGEST_S = 0.0005, 0.02
_OF_THE_WAIT = 0.02  # longest nap between two looks, as a share of the time waited so far
_ASK_FOR_DEAD_EVERY_S = 0.25
BEFORE_ABORT_S = 0.5  # the launcher forwards what was printed; who has said goodbye goes


class Tag(IntEnum):
    """The kinds of messages of an evaluation; the payload is described where it is sent.

    Another conversation may have tags of its own: a `World` carries any number.
    """

    HELLO = 1  # worker: Hello
    JOB = 2  # coordinator: Assignment
    LOADED = 3  # worker: WorkerInfo
    PLAN = 4  # coordinator: Plan
    READY = 5  # worker: Report, or None before its first chunk
    WORK = 6  # coordinator: cells
    PART = 7  # worker: Report on a chunk it goes on with
    STOP = 8  # coordinator: Farewell; the last message to a worker about a job
    BYE = 9  # worker: Report of a chunk given up, or None; its last message about a job
    FAIL = 10  # worker: the LsengineError that keeps it from working


@dataclass(frozen=True, slots=True)
class Message:
    """One received message; its tag equals one of `Tag` in an evaluation."""

    source: int
    tag: int
    payload: Any


class World:
    """The ranks of this launch, with messages that never block.

    ``comm`` is MPI's communicator of all ranks, or None for a process alone.

    Attributes:
        rank: This process; 0 is the coordinator.
        comm_self: A communicator of this process alone, for independent parallel files.
        library: Name and version of the MPI library.
        survives_rank_death: Whether the launcher lets the others live when a rank dies (ULFM).
    """

    def __init__(self, comm: Any, comm_self: Any, library: str) -> None:
        self._comm, self.comm_self, self.library = comm, comm_self, library
        self.rank: int = 0 if comm is None else comm.Get_rank()
        self.size: int = 1 if comm is None else comm.Get_size()
        self.host = socket.gethostname()
        self._pending: list[Any] = []
        self._inbox: deque[Message] = deque()
        self._dead: set[int] = set()
        self._asked_for_dead = 0.0
        self._unresponsive: set[int] = set()  # have to be ended, by rank 0, when all is done
        self._skips_finalize = False
        self.survives_rank_death = comm is not None and survives_rank_death()
        if self.survives_rank_death:
            from mpi4py import MPI

            self._comm.Set_errhandler(MPI.ERRORS_RETURN)

    @classmethod
    def alone(cls) -> World:
        """Return the world of a process that no launcher has started: one rank, without MPI."""
        return cls(None, None, "none")

    def local_rank_and_size(self) -> tuple[int, int]:
        """Return this rank's number on its host and how many ranks are there; **collective**."""
        if self._comm is None:
            return 0, 1
        from mpi4py import MPI

        local = self._comm.Split_type(MPI.COMM_TYPE_SHARED)
        rank_and_size = local.Get_rank(), local.Get_size()
        local.Free()
        return rank_and_size

    def lost(self) -> frozenset[int]:
        """Return the ranks that have died or do not answer.

        Cheap: MPI is asked a few times a second, however often this is called.
        """
        now = time.monotonic()
        if self.survives_rank_death and now - self._asked_for_dead > _ASK_FOR_DEAD_EVERY_S:
            self._asked_for_dead = now
            self._update_dead()
        return frozenset(self._dead | self._unresponsive)

    def skip_finalize(self) -> None:
        """Do not wait for the other ranks in MPI_Finalize: not all of them may get there."""
        self._skips_finalize = True

    def mark_unresponsive(self, ranks: Iterable[int]) -> None:
        """Count ranks that do not answer as lost, and have them ended when this process ends."""
        self._unresponsive.update(ranks)

    def exit_without_finalize(self, code: int) -> None:
        """End this process now if a clean end of MPI would wait for ranks that do not come.

        If ranks do not answer, the launcher is asked to end all, with the same code: the others
        have nothing left to do.  Returns where a clean end is possible.
        """
        if not self._skips_finalize and not self._unresponsive:
            return
        sys.stdout.flush()
        sys.stderr.flush()
        if self._unresponsive:
            time.sleep(BEFORE_ABORT_S)
            self._comm.Abort(code)
        os._exit(code)

    def _update_dead(self) -> None:
        from mpi4py import MPI

        failed = self._comm.Get_failed()
        if failed.Get_size() > len(self._dead):
            group = self._comm.Get_group()
            dead = MPI.Group.Translate_ranks(failed, list(range(failed.Get_size())), group)
            self._dead |= set(dead)
            self._comm.Ack_failed(failed.Get_size())  # else no message from anybody is taken
            self.skip_finalize()

    def send(self, payload: Any, *, to: int, tag: int) -> None:
        """Send without waiting for the receiver; to a dead one, nothing happens."""
        self._pending = [request for request in self._pending if not self._is_sent(request)]
        try:
            self._pending.append(self._comm.isend(payload, dest=to, tag=int(tag)))
        except Exception:
            if not self._has_dead_ranks():
                raise

    def _is_sent(self, request: Any) -> bool:
        try:
            return bool(request.test()[0])
        except Exception:
            if not self._has_dead_ranks():
                raise
            return True

    def _has_dead_ranks(self) -> bool:
        """Whether an exception of MPI's may come from a rank that has died."""
        if self.survives_rank_death:
            self._update_dead()
        return bool(self._dead)

    def poll(self, *tags: int) -> Message | None:
        """Return the oldest message, of the given tags if any are given; None if there is none.

        Messages are taken from MPI in the order of their arrival, whatever their tags: a probe
        for one tag may miss what a probe for the next one finds.
        """
        self._fetch()
        message = next((m for m in self._inbox if not tags or m.tag in tags), None)
        if message is not None:
            self._inbox.remove(message)
        return message

    def put_back(self, messages: Iterable[Message]) -> None:
        """Let messages be received again, before all others."""
        self._inbox.extendleft(reversed(list(messages)))

    def forget(self) -> None:
        """Drop everything that has arrived and was not asked for."""
        self._fetch()
        self._inbox.clear()

    def _fetch(self) -> None:
        if self._comm is None:
            return
        from mpi4py import MPI

        status, misses = MPI.Status(), 0
        # Two misses end it: the first probe may only fetch a message from the transport (Open
        # MPI), and it would be found a whole nap later.
        while misses < 2:
            try:
                probed = self._comm.improbe(source=MPI.ANY_SOURCE, tag=MPI.ANY_TAG, status=status)
            except MPI.Exception:
                if not self._has_dead_ranks():
                    raise
                probed = None
            if probed is None:
                misses += 1
            else:
                message = Message(status.source, status.tag, probed.recv())
                if message.source not in self._unresponsive:
                    self._inbox.append(message)

    def receive(
        self,
        *tags: int,
        idle: Callable[[], None] = lambda: None,
        limit_s: float | None = None,
        nap_s: float = _LONGEST_S,
    ) -> Message | None:
        """Wait for a message without using the processor; None when the time is up.

        ``idle`` is called between probes and may raise to stop waiting.  Two looks are ``nap_s``
        apart at most, as long as it does not take long: a wait of seconds can do with longer naps.

        Raises:
            Stopped: On another rank than 0, when rank 0 has died.
        """
        begin, pause = time.monotonic(), _SHORTEST_S
        end = math.inf if limit_s is None else begin + limit_s
        while (message := self.poll(*tags)) is None:
            idle()
            self.check_coordinator()
            if time.monotonic() > end:
                return None
            time.sleep(pause)
            longest = max(nap_s, min(_LONGEST_S, _OF_THE_WAIT * (time.monotonic() - begin)))
            pause = min(longest, pause * 1.5)
        return message

    def check_coordinator(self) -> None:
        """Raise `Stopped` if rank 0 has died: nobody can say what to do next."""
        if self.rank and 0 in self.lost():
            raise Stopped("rank 0 has died; the same command goes on")

    def wait(self, *tags: int) -> Message:
        """Wait for a message without a time limit."""
        message = self.receive(*tags)
        assert message is not None
        return message

    def flush(self, limit_s: float = 10.0) -> None:
        """Wait until everything sent has left, within a time limit."""
        end = time.monotonic() + limit_s
        while any(not self._is_sent(r) for r in self._pending) and time.monotonic() < end:
            time.sleep(_SHORTEST_S)
        self._pending = []


def survives_rank_death() -> bool:
    """Whether the launcher lets ranks live when one dies: Open MPI's, with --with-ft ulfm."""
    return os.environ.get("OMPI_MCA_mpi_ft_enable") == "1"  # noqa: SIM112
