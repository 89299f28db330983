"""The beginning and the end of a launch: joining the other ranks, and leaving them."""

from __future__ import annotations

import atexit
import faulthandler
import functools
import gc
import os
import re
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from lsengine.errors import EnvironmentUnfit, LsengineError
from lsengine.ranks.signals import EarlySignal, fatal_signals
from lsengine.ranks.world import BEFORE_ABORT_S, World, survives_rank_death

_MEETING_S = 600.0  # for all ranks to reach MPI_Init
_RANKS = (
    "OMPI_COMM_WORLD_RANK",
    "PMI_RANK",
    "PMIX_RANK",
    "MV2_COMM_WORLD_RANK",
    "PALS_RANKID",
    "SLURM_PROCID",
)
_FAILURES: list[int] = []  # the code that this process ends with, once it is known
_NO_STEPS = (None, "4294967291", "4294967290")  # SLURM's numbers of batch and interactive steps


def launched_size() -> int:
    """Return how many ranks the launcher says it started; 1 without a launcher.

    Only what a launcher sets for each rank is asked: a plain process in an allocation is one.

    Raises:
        EnvironmentUnfit: If that is no number.
    """
    for size in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "PALS_SIZE"):
        if size in os.environ:
            return _count(size)
    if "SLURM_PROCID" in os.environ and os.environ.get("SLURM_STEP_ID") not in _NO_STEPS:
        return _count("SLURM_STEP_NUM_TASKS") if "SLURM_STEP_NUM_TASKS" in os.environ else 1
    return 1


def launched_rank() -> int:
    """Return which rank the launcher says this process is; 0 without a launcher or its word."""
    text = next((os.environ[rank] for rank in _RANKS if rank in os.environ), "0")
    return int(text) if re.fullmatch("[0-9]{1,9}", text) else 0


def own_exit_code(agreed: int) -> int:
    """Return the code with which this rank ends where all have agreed on one.

    Rank 0 ends with it, the others with 0: about those a launcher would complain at length, and
    bury what rank 0 has said.
    """
    return 0 if meet.cache_info().currsize and meet().rank else agreed


def hint_for(code: int) -> str:
    """Return what rank 0 adds to a message if the launcher adds lines below it that say less.

    Open MPI before version 5 does so wherever a rank ends with another code than 0.
    """
    is_old = "OMPI_COMM_WORLD_RANK" in os.environ and "OMPI_VERSION" not in os.environ
    if not (code and is_old) or launched_rank():
        return ""
    return f"(exit code {code}; what mpirun prints below this line says no more)\n"


@contextmanager
def refused_once() -> Iterator[None]:
    """Have rank 0 alone say what every rank refuses alike; the others end without a word."""
    try:
        yield
    except LsengineError:
        if launched_rank() and launched_size() > 1:
            raise SystemExit(0) from None
        raise


def _count(variable: str) -> int:
    text = os.environ[variable]
    if not re.fullmatch("0*[1-9][0-9]{0,8}", text):
        raise EnvironmentUnfit(
            f"{variable} is {text!a}; expected the number of ranks, which a launcher sets; unset "
            "it, or start by the launcher anew"
        )
    return int(text)


@functools.cache
def join() -> World:
    """Join the other ranks as `meet` does, and from now on survive signals that come early.

    Raises:
        EnvironmentUnfit: As `meet`.
    """
    atexit.register(_end_last)
    signal.signal(signal.SIGUSR1, EarlySignal())  # it would end a process that is starting
    # And one that is ending: Python gives up its handlers before MPI is finalized.
    atexit.register(signal.signal, signal.SIGUSR1, signal.SIG_IGN)
    try:
        return meet()
    except EnvironmentUnfit as error:
        if launched_rank():
            raise SystemExit(error.exit_code) from None  # once is enough
        raise


@functools.cache
def meet() -> World:
    """Meet the other ranks, once; a process that was started alone is a world of one rank.

    Raises:
        EnvironmentUnfit: If the launcher started several ranks that do not find each other.
    """
    expected = launched_size()
    launcher_sets = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK")
    if expected == 1 and not any(v in os.environ for v in launcher_sets):
        return World.alone()
    try:
        MPI = _initialised()
    except (ImportError, RuntimeError) as error:
        if expected == 1:
            return World.alone()
        raise EnvironmentUnfit(
            f"started as {expected} ranks, but mpi4py cannot be used: {error}; install it with "
            "an MPI library (pip install mpi4py mpich), or run without a launcher"
        ) from error
    library = MPI.Get_library_version().split("\n")[0].split(",")[0].strip("\x00 ")
    size = MPI.COMM_WORLD.Get_size()
    if size != expected and size == 1:
        raise EnvironmentUnfit(
            f"the launcher started {expected} ranks, but each finds itself alone: launcher and MPI "
            f'library do not belong together (this process uses "{library}"); start with the '
            "mpirun of that library, or choose the library with MPI4PY_MPIABI=mpich|openmpi"
        )
    return World(MPI.COMM_WORLD, MPI.COMM_SELF, library) if size > 1 else World.alone()


def end_at_once() -> None:
    """Let this process end without a last search for cycles: with torch it takes half a second.

    Where Triton is loaded, Python searches: at the end Triton's library lists what is alive.
    """

    def keep_all() -> None:
        if "triton" not in sys.modules:
            gc.freeze()

    atexit.register(keep_all)


def exit_without_finalize(code: int) -> None:
    """End this process as `World.exit_without_finalize` does, if it has joined a launch."""
    if meet.cache_info().currsize:
        meet().exit_without_finalize(code)


def leave_last(code: int) -> None:
    """Have rank 0 end a moment after the others where it ends with another code than 0.

    Open MPI 5 then adds nothing of its own to what rank 0 has said; before, it ends the others.
    """
    if _running_mpi() is not None:
        _FAILURES.append(code)  # the others wait for this rank when they finalize
        return
    with suppress(EnvironmentUnfit):
        if code and launched_size() > 1 and not launched_rank():
            time.sleep(BEFORE_ABORT_S)


def _end_last() -> None:
    mpi = _running_mpi()
    if mpi is None or not any(_FAILURES) or survives_rank_death():
        return
    is_last = mpi.COMM_WORLD.Get_rank() == 0 and mpi.COMM_WORLD.Get_size() > 1
    mpi.Finalize()
    if is_last:
        time.sleep(BEFORE_ABORT_S)


def _initialised() -> Any:
    """Initialise MPI, which waits for every rank; end this process if one does not come.

    A rank that is killed before it has joined leaves the others inside ``MPI_Init`` for good
    where the launcher outlives it; elsewhere its death is the end of all.  Nothing of Python runs
    there: a thread of C writes where the process stands and ends it, with exit code 1.  If all
    ranks end by a signal, a launcher that outlives them calls that a success.
    """
    errors = sys.__stderr__ if survives_rank_death() else None
    if errors is not None:
        faulthandler.dump_traceback_later(_MEETING_S, exit=True, file=errors)
    try:
        with fatal_signals():
            from mpi4py import MPI
    finally:
        if errors is not None:
            faulthandler.cancel_dump_traceback_later()
    return MPI


def let_rank_0_speak() -> None:
    """On any other rank, give rank 0 the time to say the same and to end all."""
    mpi = _running_mpi()
    if mpi is not None and mpi.COMM_WORLD.Get_rank() > 0:
        time.sleep(2 * BEFORE_ABORT_S)


def abort_other_ranks(code: int) -> None:
    """End all other ranks now, if there are any."""
    mpi = _running_mpi()
    if mpi is not None and mpi.COMM_WORLD.Get_size() > 1:
        sys.stderr.flush()
        time.sleep(BEFORE_ABORT_S)
        mpi.COMM_WORLD.Abort(code)


def abort_all(error: BaseException) -> None:
    """Print an exception with its rank and host, and end all other ranks."""
    mpi = _running_mpi()
    rank = mpi.COMM_WORLD.Get_rank() if mpi is not None else 0
    text = "".join(traceback.format_exception(error))
    head = f"r{rank:03d} {socket.gethostname()}"
    print("".join(f"{head} {line}\n" for line in text.splitlines()), end="", file=sys.stderr)
    abort_other_ranks(1)


def _running_mpi() -> Any:
    mpi = sys.modules.get("mpi4py.MPI")
    return mpi if mpi is not None and mpi.Is_initialized() and not mpi.Is_finalized() else None
