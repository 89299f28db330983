"""The process that reads files before others do: see `guard`.

It forks for each file, twice: one process reads, under limits of time and memory, and the other
says what has come of it.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
from pathlib import Path

import h5py

from lsengine.store import heaps, structure

_TIME_S, _BYTES_PER_S = 5, 2**22  # of processor time; a part of it is for the file's size
_WAIT_S = 300  # until the file system has answered
_ROOM_BYTES = 2**30
_SMALL_BYTES = 2**20
_REFERENCES = ("DIMENSION_LIST", "REFERENCE_LIST")
_ENDS = {
    "SIGXCPU": "reading it does not end",
    "SIGKILL": "reading it does not end, or takes all memory",
    "SIGALRM": f"it could not be read in {_WAIT_S} s",
}


def serve(descriptor: int) -> None:
    """Examine the files whose paths arrive at a socket, each with the pipe that waits for it."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children here
    with socket.socket(fileno=descriptor) as requests:
        while True:
            path, replies, _, _ = socket.recv_fds(requests, 2**16, 1)
            if not replies:
                return
            if os.fork() == 0:
                requests.close()
                answer(Path(os.fsdecode(path)), replies[0])
                os._exit(0)
            os.close(replies[0])


def answer(path: Path, reply: int) -> None:
    """Have a file read, and say what is wrong with it: JSON, null if nothing is."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        _limit(path)
        os.write(theirs, json.dumps(problem(path)).encode())
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        answer = pipe.read()
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if ended:
        how = signal.Signals(-ended).name if ended < 0 else f"exit code {ended}"
        why = _ENDS.get(how, f"HDF5 crashes over it ({how})")
        answer = json.dumps(f"damaged: {why}").encode()
    os.write(reply, answer)


def _limit(path: Path) -> None:
    """Limit what this process may use for a file, by its size."""
    size = path.stat().st_size
    time_s = _TIME_S + size // _BYTES_PER_S
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (time_s, time_s + 1))
    signal.alarm(_WAIT_S)
    statm = Path("/proc/self/statm")
    if statm.exists():  # macOS does not limit what a process reserves
        own = int(statm.read_text().split()[0]) * resource.getpagesize()
        most = own + 2 * size + _ROOM_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def problem(path: Path) -> str | None:
    """Read of a file whatever HDF5 has to interpret, and return what is wrong with it."""
    try:
        with structure.opened(path) as file:
            heaps.check(path, structure.check(file, path.stat().st_size))
            _read("/", file)
            file.visititems(_read)
    except structure.Unfit as error:
        return str(error)
    except Exception as error:  # HDF5, h5py and NumPy raise anything over rotten bytes
        return f"damaged: {type(error).__name__}: {' '.join(str(error).split())}"
    return None


def _read(name: str, item: h5py.HLObject) -> None:
    """Read the attributes of an object, its scales, and of plain numbers the first one."""
    for key in item.attrs:
        if key not in _REFERENCES:
            item.attrs[key]
    if not isinstance(item, h5py.Dataset):
        return
    if not item.is_scale and name == "status":
        for axis in item.dims:
            str([scale.name for scale in axis.values()])
    is_plain = item.id.get_create_plist().get_layout() == h5py.h5d.CONTIGUOUS
    if not is_plain or item.size * item.dtype.itemsize <= _SMALL_BYTES:
        item[()]
    elif item.size:
        item[(0,) * item.ndim]
