"""Ranks: the only door to MPI.

Waiting never blocks inside MPI, where it would keep a core busy: every wait probes and sleeps,
a little longer each time.  Nothing here is collective after start-up.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from types import FrameType
from typing import Any

from lsengine.errors import EnvironmentUnfit

_SHORTEST_S, _LONGEST_S = 0.0005, 0.02
_NO_STEPS = (None, "4294967291", "4294967290")  # SLURM's numbers of batch and interactive steps


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


@dataclass(frozen=True, slots=True)
class Message:
    """One received message."""

    source: int
    tag: Tag
    payload: Any


def launched_size() -> int:
    """Return how many ranks the launcher says it started; 1 without a launcher.

    Only variables that a launcher sets for each rank are asked, so that a plain process inside
    a batch allocation counts as one.
    """
    for size in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "PALS_SIZE"):
        if size in os.environ:
            return int(os.environ[size])
    if "SLURM_PROCID" in os.environ and os.environ.get("SLURM_STEP_ID") not in _NO_STEPS:
        return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))
    return 1


class World:
    """The ranks of this launch, with messages that never block.

    Attributes:
        rank: This process; 0 is the coordinator.
        size: Number of ranks.
        host: Name of this host.
        alone: A communicator of this process alone, for independent parallel files.
        library: Name and version of the MPI library.
    """

    def __init__(self, comm: Any, alone: Any, library: str) -> None:
        self._comm, self.alone, self.library = comm, alone, library
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self.host = socket.gethostname()
        self._pending: list[Any] = []
        self._inbox: deque[Message] = deque()

    def neighbours(self) -> tuple[int, int]:
        """Return this rank's number on its host and how many ranks are there; **collective**."""
        from mpi4py import MPI

        local = self._comm.Split_type(MPI.COMM_TYPE_SHARED)
        place = local.Get_rank(), local.Get_size()
        local.Free()
        return place

    def send(self, payload: Any, *, to: int, tag: Tag) -> None:
        """Send without waiting for the receiver."""
        self._pending = [r for r in self._pending if not r.test()[0]]
        self._pending.append(self._comm.isend(payload, dest=to, tag=int(tag)))

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
            found = self._comm.improbe(source=MPI.ANY_SOURCE, tag=MPI.ANY_TAG, status=status)
            if found is None:
                misses += 1
            else:
                self._inbox.append(Message(status.source, Tag(status.tag), found.recv()))

    def receive(
        self, *tags: Tag, idle: Callable[[], None] = lambda: None, limit_s: float | None = None
    ) -> Message | None:
        """Wait for a message without using the processor; None when the time is up.

        Args:
            tags: Wanted kinds; all if none are given.
            idle: Called between probes; may raise to stop waiting.
            limit_s: Longest wait.
        """
        end = None if limit_s is None else time.monotonic() + limit_s
        pause = _SHORTEST_S
        while (message := self.poll(*tags)) is None:
            idle()
            if end is not None and time.monotonic() > end:
                return None
            time.sleep(pause)
            pause = min(_LONGEST_S, pause * 1.5)
        return message

    def wait(self, *tags: Tag) -> Message:
        """Wait for a message without a time limit."""
        message = self.receive(*tags)
        assert message is not None
        return message

    def flush(self, limit_s: float = 10.0) -> None:
        """Wait until everything sent has left, within a time limit."""
        end = time.monotonic() + limit_s
        while any(not r.test()[0] for r in self._pending) and time.monotonic() < end:
            time.sleep(_SHORTEST_S)
        self._pending = []

    def abort(self, code: int) -> None:
        """End all ranks now."""
        sys.stdout.flush()
        sys.stderr.flush()
        self._comm.Abort(code)


def connect() -> World | None:
    """Join the other ranks; None when this process was started alone.

    Raises:
        EnvironmentUnfit: If the launcher started several ranks that do not find each other.
    """
    expected = launched_size()
    if expected == 1 and not _under_launcher():
        return None
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        if expected == 1:
            return None
        raise EnvironmentUnfit(
            f"started as {expected} ranks, but mpi4py cannot be used: {error}; install it with "
            "an MPI library (pip install mpi4py mpich), or run without a launcher"
        ) from error
    library = MPI.Get_library_version().split("\n")[0].split(",")[0].strip("\x00 ")
    size = MPI.COMM_WORLD.Get_size()
    if size != expected and size == 1:
        if int(os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("PMI_RANK", "0"))):
            raise SystemExit(EnvironmentUnfit.exit_code)  # once is enough
        raise EnvironmentUnfit(
            f"the launcher started {expected} ranks, but each finds itself alone: launcher and MPI "
            f'library do not belong together (this process uses "{library}"); start with the '
            "mpirun of that library, or choose the library with MPI4PY_MPIABI=mpich|openmpi"
        )
    return World(MPI.COMM_WORLD, MPI.COMM_SELF, library) if size > 1 else None


def _under_launcher() -> bool:
    return any(v in os.environ for v in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK"))


def usable_cores() -> frozenset[int]:
    """Return the processor cores this process may use, by number."""
    try:
        return frozenset(os.sched_getaffinity(0))
    except AttributeError:  # not every system has affinities
        return frozenset(range(os.cpu_count() or 1))


def end_others(code: int) -> None:
    """End all other ranks now, if there are any."""
    mpi = _running_mpi()
    if mpi is not None and mpi.COMM_WORLD.Get_size() > 1:
        sys.stderr.flush()
        time.sleep(0.2)  # let the launcher forward what was printed
        mpi.COMM_WORLD.Abort(code)


def _running_mpi() -> Any:
    mpi = sys.modules.get("mpi4py.MPI")
    return mpi if mpi is not None and mpi.Is_initialized() and not mpi.Is_finalized() else None


def abort_all(error: BaseException) -> None:
    """Say what happened on this rank, with rank and host, and end all others."""
    mpi = _running_mpi()
    rank = mpi.COMM_WORLD.Get_rank() if mpi is not None else 0
    text = "".join(traceback.format_exception(error))
    head = f"r{rank:03d} {socket.gethostname()}"
    print("".join(f"{head} {line}\n" for line in text.splitlines()), end="", file=sys.stderr)
    end_others(1)


class StopRequest:
    """Remembers a signal that asks for a clean stop.

    SIGUSR1 (a time limit near), SIGTERM and SIGINT set it; a second SIGINT interrupts at once.
    """

    def __init__(self) -> None:
        self.signal: str | None = None
        self._before: dict[int, Any] = {}

    def install(self) -> StopRequest:
        """Start listening; call from the main thread."""
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._remember)
        return self

    def uninstall(self) -> None:
        """Give the signals back to whoever had them before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def request(self, why: str) -> None:
        """Ask for a stop without a signal."""
        self.signal = self.signal or why

    def __bool__(self) -> bool:
        return self.signal is not None

    def _remember(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.signal == "SIGINT" and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number).name
