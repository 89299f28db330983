"""Leaving a launch with one exit code."""

from __future__ import annotations

import os
import socket
import sys
import time
import traceback
from typing import Any

_LEAVING_S = 0.5  # for those who have said goodbye to go
skipping_finalize: set[int] = set()  # this rank, once it must not wait for the others when it ends
unresponsive: set[int] = set()  # ranks that have to be ended, by rank 0, when all is done


def exit_without_finalize(code: int) -> None:
    """End this process now if a clean end of MPI would wait for ranks that do not come.

    On rank 0, after ranks have been abandoned, end all by the launcher, with the same code: the
    others have nothing left to do.
    """
    if not skipping_finalize and not unresponsive:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    if unresponsive:
        time.sleep(_LEAVING_S)
        _running_mpi().COMM_WORLD.Abort(code)
    os._exit(code)


def abort_other_ranks(code: int) -> None:
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
    abort_other_ranks(1)
