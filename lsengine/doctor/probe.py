"""What a rank finds where it is: host, cores, memory, torch, and devices that it tries."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
import os
import platform
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TypeVar

from lsengine.cores import bound
from lsengine.engine.messages import Hello
from lsengine.external import installation

T = TypeVar("T")
_GIB = 2**30
_COMPANIONS = ("torchvision", "torchaudio")


@dataclass(frozen=True, slots=True, kw_only=True)
class Torch:
    """The installed torch and what it sees."""

    version: str = ""  # with the build's suffix; empty if torch cannot be imported
    error: str = ""  # why it cannot, or why its devices cannot be asked
    cuda: str = ""  # version of CUDA it was built with; empty for a CPU build
    available: bool = False  # whether it can use a card
    cards: tuple[tuple[str, str], ...] = ()  # name and UUID of all cards it sees


@dataclass(frozen=True, slots=True, kw_only=True)
class Companion:
    """A library that is compiled for one build of torch."""

    name: str
    version: str
    error: str  # of its import; empty if it fits


@dataclass(frozen=True, slots=True, kw_only=True)
class HostProbe:
    """What a rank finds where it is."""

    hello: Hello  # what a worker tells of itself before a run
    software: str  # versions of lsengine and Python
    torch: Torch
    driver: str  # version of CUDA that the NVIDIA driver supports, as 12.4; empty without driver
    parent_cores: frozenset[int]  # that the launcher's own process may use here
    memory: tuple[int, int]  # bytes: free for all ranks of the host, and in use by this rank
    libraries: tuple[str, ...]  # files of MPI libraries that this process has loaded
    companions: tuple[Companion, ...] = ()  # asked of rank 0 only: their imports take seconds


def look(*, companions: bool = False) -> HostProbe:
    """Return what this rank finds; imports torch, which takes seconds, and perhaps companions."""
    silent = Torch(error="no answer from torch or the driver within 60 s")
    torch = within(60, _torch, silent)
    names = _COMPANIONS if companions and torch.version else ()
    return HostProbe(
        hello=Hello.here(socket.gethostname()),
        software=f"lsengine {installation.version()}, Python {platform.python_version()}",
        torch=torch,
        driver=_driver(),
        parent_cores=_parent_cores(),
        memory=(free_memory(), _resident()),
        libraries=_mpi_libraries(),
        companions=tuple(map(_companion, filter(importlib.util.find_spec, names))),
    )


def within(seconds: float, function: Callable[[], T], otherwise: T) -> T:
    """Return what a function returns, or something else if it takes too long.

    A library that hangs in a driver cannot be interrupted: its thread is left behind, and ends
    with the process.
    """
    outcome = [otherwise]
    thread = threading.Thread(target=lambda: outcome.__setitem__(0, function()), daemon=True)
    thread.start()
    thread.join(seconds)
    return outcome[0]


def _torch() -> Torch:
    try:
        import torch
    except Exception as error:
        return Torch(error=_first_line(error))
    version, cuda = str(torch.__version__), str(torch.version.cuda or "")
    try:
        available = torch.cuda.is_available()
        cards = range(torch.cuda.device_count() if available else 0)
        properties = [torch.cuda.get_device_properties(card) for card in cards]
    except Exception as error:
        return Torch(version=version, error=_first_line(error), cuda=cuda)
    named = tuple((p.name, str(getattr(p, "uuid", ""))) for p in properties)
    return Torch(version=version, cuda=cuda, available=available, cards=named)


def _companion(name: str) -> Companion:
    def imported() -> str:
        try:
            importlib.import_module(name)
        except Exception as error:
            return _first_line(error)
        return ""

    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        version = "without a version"
    error = within(60, imported, "its import was not done within 60 s")
    return Companion(name=name, version=version, error=error)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def try_device(index: int | None, threads: int) -> str:
    """Return what is wrong with products on a card that torch sees, on the CPU if it is None."""

    def multiply() -> str:
        try:
            import torch

            torch.set_num_threads(threads)
            a = torch.arange(256 * 256, dtype=torch.float32).reshape(256, 256) % 7
            device = torch.device("cpu") if index is None else torch.device("cuda", index)
            product = (a.to(device) @ a.to(device)).cpu().double()
            # Sums of whole numbers below 2**24: every order of adding them gives the same.
            wrong = int((product != a.double() @ a.double()).sum())
        except Exception as error:
            return _first_line(error)
        return f"{wrong} of {product.numel()} sums of a matrix product are wrong" if wrong else ""

    return within(60, multiply, "a small matrix product was not done within 60 s")


def _driver() -> str:
    """Return the newest CUDA that the driver supports; asked of the driver itself."""
    version = ctypes.c_int()
    with contextlib.suppress(OSError, AttributeError):
        if ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version)) == 0:
            return f"{version.value // 1000}.{version.value % 1000 // 10}"
    return ""


def _parent_cores() -> frozenset[int]:
    """Return the cores of the parent process: the launcher binds ranks, not itself."""
    try:
        return frozenset(os.sched_getaffinity(os.getppid()))
    except (AttributeError, OSError):
        return bound()


def free_memory() -> int:
    """Return the bytes that this host, or the container or batch job, still has; 0 if unknown."""
    free = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = dict(line.split(":", 1) for line in _lines("/proc/meminfo"))
        free.append(int(lines["MemAvailable"].split()[0]) * 1024)
    for limit, used in _control_groups():
        with contextlib.suppress(OSError, ValueError):  # "max" is no number, and no limit
            free.append(max(0, int(limit.read_text()) - int(used.read_text())))
    return min(free, default=0)


def _control_groups() -> list[tuple[Path, Path]]:
    """Return files with limit and use of memory, of this process' control group and all above."""
    found = []
    with contextlib.suppress(OSError):
        for line in _lines("/proc/self/cgroup"):
            _, kinds, name = line.split(":", 2)
            if kinds == "":
                root, limit, used = Path("/sys/fs/cgroup"), "memory.max", "memory.current"
            elif "memory" in kinds.split(","):
                root = Path("/sys/fs/cgroup/memory")
                limit, used = "memory.limit_in_bytes", "memory.usage_in_bytes"
            else:
                continue
            group = root / name.lstrip("/")
            folders = [f for f in (group, *group.parents) if f.is_relative_to(root)]
            found += [(folder / limit, folder / used) for folder in folders]
    return found


def _mpi_libraries() -> tuple[str, ...]:
    files: set[str] = set()
    with contextlib.suppress(OSError):
        files = {line.split(maxsplit=5)[5] for line in _lines("/proc/self/maps") if "/lib" in line}
    return tuple(sorted(f for f in files if Path(f).name.startswith(("libmpi.so", "libmpich.so"))))


def _resident() -> int:
    try:
        return int(_lines("/proc/self/statm")[0].split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def gib(size: float) -> str:
    """Return bytes as text in GiB, with two digits that count."""
    return f"{size / _GIB:.2g} GiB" if size < 10 * _GIB else f"{size / _GIB:.0f} GiB"
