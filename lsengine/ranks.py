"""Ranks: the only door to MPI.

Waiting never blocks inside MPI, where it would keep a core busy: every wait probes and sleeps,
a little longer each time.  Nothing here is collective after start-up.
"""

from __future__ import annotations

import atexit
import faulthandler
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

from lsengine.errors import EnvironmentUnfit, Stopped

_SHORTEST_S, _LONGEST_S = 0.0005, 0.02
_OF_THE_WAIT = 0.02  # so much later a message may be found, of what has been waited for it
_LOST_EVERY_S = 0.25
_MEETING_S = 600.0  # for all ranks to reach MPI_Init
_LEAVING_S = 0.5  # for those who have said goodbye to go
_forsaken: set[int] = set()  # this rank, once it must not wait for the others when it ends
_abandoned: set[int] = set()  # ranks that have to be ended, by rank 0, when all is done
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
    FOUND = 11  # doctor, to rank 0: what was asked for
    RING = 12  # doctor, to the next rank: the ranks it has passed, and when
    TRY = 13  # doctor, from rank 0: a seat, a file to write to, and whether to


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
        outlives: Whether the launcher lets the others live when a rank dies.
    """

    def __init__(self, comm: Any, alone: Any, library: str) -> None:
        self._comm, self.alone, self.library = comm, alone, library
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self.host = socket.gethostname()
        self._pending: list[Any] = []
        self._inbox: deque[Message] = deque()
        self._lost: set[int] = set()
        self._asked = 0.0
        self.outlives = _outlives()
        if self.outlives:
            from mpi4py import MPI

            self._comm.Set_errhandler(MPI.ERRORS_RETURN)

    def neighbours(self) -> tuple[int, int]:
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
        if self.outlives and time.monotonic() - self._asked > _LOST_EVERY_S:
            self._asked = time.monotonic()
            self._take_note_of_the_dead()
        return frozenset(self._lost | _abandoned)

    def forsake(self) -> None:
        """Remember that not all ranks may come to an orderly end; see `leave`."""
        _forsaken.add(self.rank)

    def abandon(self, ranks: Iterable[int]) -> None:
        """Count ranks as lost that do not answer, and remember to end them; see `leave`."""
        _abandoned.update(ranks)

    def _take_note_of_the_dead(self) -> None:
        from mpi4py import MPI

        failed = self._comm.Get_failed()
        if failed.Get_size() > len(self._lost):
            here = self._comm.Get_group()
            dead = MPI.Group.Translate_ranks(failed, list(range(failed.Get_size())), here)
            self._lost |= set(dead)
            self._comm.Ack_failed(failed.Get_size())  # else no message from anybody is taken
            self.forsake()

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
        if self.outlives:
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
                if message.source not in _abandoned:
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


def connect() -> World | None:
    """Join the other ranks; None when this process was started alone.

    Raises:
        EnvironmentUnfit: If the launcher started several ranks that do not find each other.
    """
    signal.signal(signal.SIGUSR1, _remember_early)  # it would end a process that is starting
    # And one that is ending: Python gives up its handlers before MPI is finalized.
    atexit.register(signal.signal, signal.SIGUSR1, signal.SIG_IGN)
    expected = launched_size()
    if expected == 1 and not _under_launcher():
        return None
    try:
        MPI = _meet()
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


def _outlives() -> bool:
    """Whether the launcher lets ranks live when one dies: Open MPI's, with --with-ft ulfm."""
    return os.environ.get("OMPI_MCA_mpi_ft_enable") == "1"  # noqa: SIM112


def _meet() -> Any:
    """Initialise MPI, which waits for every rank; end this process if one does not come.

    A rank that is killed before it has joined leaves the others inside ``MPI_Init`` for good
    where the launcher outlives it; elsewhere its death is the end of all, and who is late is
    waited for as long as it takes.  Nothing of Python runs there, so it is a thread of C that
    writes where the process stands and ends it.  With exit code 1: if all ranks end by a signal,
    a launcher that outlives them calls that a success.
    """
    errors = sys.__stderr__ if _outlives() else None
    if errors is not None:
        faulthandler.dump_traceback_later(_MEETING_S, exit=True, file=errors)
    try:
        from mpi4py import MPI
    finally:
        if errors is not None:
            faulthandler.cancel_dump_traceback_later()
    return MPI


def _under_launcher() -> bool:
    return any(v in os.environ for v in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK"))


def usable_cores() -> frozenset[int]:
    """Return the processor cores this process may use, by number."""
    try:
        return frozenset(os.sched_getaffinity(0))
    except AttributeError:  # not every system has affinities
        return frozenset(range(os.cpu_count() or 1))


def leave(code: int) -> None:
    """End this process now if a clean end of MPI would wait for ranks that do not come.

    On rank 0, after ranks have been abandoned, end all by the launcher, with the same code: the
    others have nothing left to do.
    """
    if not _forsaken and not _abandoned:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    if _abandoned:
        time.sleep(_LEAVING_S)
        _running_mpi().COMM_WORLD.Abort(code)
    os._exit(code)


def end_others(code: int) -> None:
    """End all other ranks now, if there are any."""
    mpi = _running_mpi()
    if mpi is not None and mpi.COMM_WORLD.Get_size() > 1:
        sys.stderr.flush()
        time.sleep(0.5)  # let the launcher, which may be busy, forward what was printed
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


_early: list[str] = []


def _remember_early(number: int, frame: FrameType | None) -> None:
    del frame
    _early.append(signal.Signals(number).name)


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
        if _early:
            self.request(_early[0])
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
