"""Files that others made are first read by another process: HDF5 crashes over damage.

One small process serves this one and those that it forks.  It starts when it is first needed, and
forks for every file (see `lsengine.store.guarded`), so many files cost little.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from lsengine.errors import EnvironmentUnfit
from lsengine.store.structure import Unfit

_START = """
import os, sys
if os.fork():
    os._exit(0)  # so that nobody has to wait for the other one
sys.path.insert(0, sys.argv[1])
from lsengine.store import guarded
guarded.serve(int(sys.argv[2]))
"""
_FOLDER = str(Path(__file__).resolve().parents[2])
_LAUNCHERS = ("OMPI_", "PMIX_", "PMI_", "HYDRA_", "MPI_")
# Freed memory is filled, so that what uses it crashes there, and not sometimes, and here.
_OWN = {
    "MALLOC_PERTURB_": "165",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MPI4PY_RC_INITIALIZE": "0",
}
_TRIES = 3
_helper: list[socket.socket] = []


def refuse_damaged(path: Path) -> None:
    """Return if the file can be read.

    Raises:
        Unfit: If HDF5 crashes over it, reading it does not end, or needs more than its size; or
            as `structure.check`.
        EnvironmentUnfit: If the process that should read it first cannot be had.
    """
    request = os.fsencode(path.absolute())
    for _ in range(_TRIES):  # whoever needs memory may have ended the process
        if reply := _ask(request):
            if problem := json.loads(reply):
                raise Unfit(problem)
            return
        _helper.clear()
    raise EnvironmentUnfit(
        f"{path}: the process that reads a file before others do cannot be started, or is ended "
        "again and again; see if there is memory left"
    )


def _ask(request: bytes) -> bytes:
    """Return the answer of the process, empty if it has ended."""
    try:
        if not _helper:
            _helper.append(_started())
        ours, theirs = os.pipe()
        with os.fdopen(ours, "rb") as reply:
            try:
                socket.send_fds(_helper[0], [request], [theirs])
            finally:
                os.close(theirs)
            return reply.read()
    except (OSError, subprocess.SubprocessError):
        return b""


def _started() -> socket.socket:
    """Start the process, and return the socket that it listens to; it ends when that is closed.

    It has a session of its own, so that Ctrl-C is for this process alone, and nothing of a
    launcher's environment, so that it is no rank.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(_LAUNCHERS)}
    with theirs:
        subprocess.run(
            [sys.executable, "-P", "-c", _START, _FOLDER, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment | _OWN,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
            check=True,
        )
    return ours
