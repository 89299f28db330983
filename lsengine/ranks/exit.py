"""Ending all ranks of a launch at once."""

from __future__ import annotations

import socket
import sys
import time
import traceback
from typing import Any

_BEFORE_ABORT_S = 0.5  # let the launcher, which may be busy, forward what was printed


def abort_other_ranks(code: int) -> None:
    """End all other ranks now, if there are any."""
    mpi = _running_mpi()
    if mpi is not None and mpi.COMM_WORLD.Get_size() > 1:
        sys.stderr.flush()
        time.sleep(_BEFORE_ABORT_S)
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
