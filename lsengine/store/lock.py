"""The lock beside a surface file: one run at a time, and none that outlives its owner.

A file system lock would be lost or refused on network file systems; a sidecar with the
owner's identity and a heartbeat works on all of them.  Clocks of different hosts are never
compared: a foreign lock is judged by whether its heartbeat *changes* while it is watched.

One weakness remains.  A process that is paused for longer than others watch its lock, and just
between reading the lock and renewing it, overwrites the lock of the run that has taken over.  That
run sees a foreign token at its next heartbeat and stops cleanly, so two runs write for seconds at
most; both write the same values into the same cells.

What else may lie under a lock's name is refused at once and never opened: a link, whose target
would be overwritten, a folder, a FIFO.  A file that is no lock is refused, too, unless it is empty
or holds nothing but zeros, as a machine that crashed leaves a lock.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from lsengine import files
from lsengine.errors import EnvironmentUnfit, Stopped, SurfaceError
from lsengine.wording import control_character

log = logging.getLogger(__name__)
BEAT_S = 30.0
WATCH_S = 90.0
_Owner = dict[str, Any]
_DYING_S = 3.0  # a killed process takes a moment to give its memory back and go
_WRITING_S = 2.0  # to write a lock that has been made
_MOST_BYTES = 4096  # a lock has a few hundred
_AS_IT_IS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # no link, and no waiting at a FIFO
_BLANK: _Owner = {
    "token": "",
    "host": "?",
    "boot_id": "",
    "pid_namespace": "",
    "pid": 0,
    "process_start": "",
    "slurm_job_id": "",
    "slurm_restart_count": 0,
    "heartbeat": 0,
}
"""What a lock says; only strings may be None."""


def lock_path(surface: Path) -> Path:
    """Return the sidecar of a surface file."""
    return surface.with_name(surface.name + ".lock")


@contextlib.contextmanager
def held(
    surface: Path,
    *,
    lost: Callable[[], None],
    tick: Callable[[], None] = lambda: None,
    watch_s: float = WATCH_S,
    beat_s: float = BEAT_S,
) -> Iterator[None]:
    """Hold the lock of a surface file, renewing its heartbeat from a thread.

    Args:
        surface: The surface file; it need not exist, its folder must.
        lost: Called from the thread when another run has taken the lock.
        tick: Called now and then while a foreign lock is watched; may raise to stop.
        watch_s: How long a foreign lock is watched before it counts as stale.
        beat_s: Seconds between heartbeats.

    Raises:
        UsageError: If the surface's name is too long, or something is there that is no file.
        SurfaceError: If another run holds the lock, or something else has its name.
        EnvironmentUnfit: If it cannot be written, or the folder has gone in place of a `Stopped`.
    """
    files.check_target(surface)
    path, mine = lock_path(surface), _identity()
    try:  # round again when the owner of a lock leaves meanwhile
        while not _create(path, mine) and not _take_over(path, mine, watch_s, tick):
            tick()
            time.sleep(0.01)
    except OSError as error:
        reason = error.strerror or error
        raise EnvironmentUnfit(f"{path}: the lock cannot be written: {reason}") from error
    ended = threading.Event()
    arguments = (path, mine, ended, lost, beat_s)
    thread = threading.Thread(target=_beat, args=arguments, name="lock", daemon=True)
    thread.start()
    try:
        yield
    except Stopped as error:
        if files.has_gone(surface.parent):  # the lock is lost with it, and nothing can go on
            raise EnvironmentUnfit(
                f"{surface.parent}: the folder is not there any more ({error}): it was removed or "
                "moved, or its file system has gone; bring it back, and the same command goes on"
            ) from None
        raise
    finally:
        ended.set()
        thread.join()
        _release(path, mine)


def _release(path: Path, mine: _Owner) -> None:
    """Remove the lock; where that is refused, a run's outcome is still the run's."""
    if _read(path).get("token") != mine["token"]:
        return
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        fate = (
            "it is stale once this process has ended, and the next run here takes it over; one on "
            f"another host watches it first: rm {path}"
        )
        reason = error.strerror or error
        log.warning("%s: the lock cannot be removed (%s); %s", path, reason, fate)


def owner(surface: Path) -> dict[str, Any] | None:
    """Return the identity of the run that holds the lock, or None; stale ones count as none."""
    seen = _read(lock_path(surface))
    return seen if seen and not _is_dead(seen, _identity()) else None


def _identity() -> _Owner:
    host = boot_id = socket.gethostname()
    namespace, job = "", os.environ.get("SLURM_JOB_ID", "")
    restarts = os.environ.get("SLURM_RESTART_COUNT", "0")
    with contextlib.suppress(OSError):
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with contextlib.suppress(OSError):
        namespace = str(Path("/proc/self/ns/pid").readlink())
    return {
        "token": uuid.uuid4().hex,
        "host": host,
        "boot_id": boot_id,
        "pid_namespace": namespace,
        "pid": os.getpid(),
        "process_start": _process_start(os.getpid()),
        "slurm_job_id": job if re.fullmatch("[0-9A-Za-z_.-]{1,64}", job) else None,
        "slurm_restart_count": int(restarts) if re.fullmatch("[0-9]{1,9}", restarts) else 0,
        "heartbeat": 0,
    }


def _create(path: Path, mine: _Owner) -> bool:
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump(mine, file)
    except OSError:
        path.unlink(missing_ok=True)  # a full disk: an empty lock would keep everybody out
        raise
    return True


def _take_over(path: Path, mine: _Owner, watch_s: float, tick: Callable[[], None]) -> bool:
    """Replace a stale lock; False if it changed meanwhile and has to be looked at anew.

    flock makes two processes that judge the same lock stale take turns; the second then
    finds an owner that is alive.
    """
    seen = _look(path, tick)
    if seen is None:
        return False
    end = time.monotonic() + _DYING_S
    while _is_local(seen, mine) and not _is_dead(seen, mine) and time.monotonic() < end:
        tick()
        time.sleep(0.1)
    is_foreign = not _is_local(seen, mine)
    is_stale = not seen or _is_dead(seen, mine)
    is_stale = is_stale or (is_foreign and _is_silent(path, seen, watch_s, tick))
    if not os.path.lexists(path):
        return False
    if not is_stale:
        raise _refusal(path, seen)
    try:
        with os.fdopen(os.open(path, os.O_RDWR | _AS_IT_IS), "r+") as file:
            _take_turns(file, path)
            # A heartbeat or a new owner puts another file under the name.
            is_same = os.path.samestat(path.lstat(), os.fstat(file.fileno()))
            if not is_same or _read(path) != seen:
                return False
            file.truncate()
            json.dump(mine, file)
    except FileNotFoundError:
        return False
    return True


def _take_turns(file: IO[str], path: Path) -> None:
    end = time.monotonic() + _WRITING_S
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                why = f"another program has locked it; end that one, or remove the lock: rm {path}"
                raise SurfaceError(f"{path}: {why}") from None
        time.sleep(0.01)


def _look(path: Path, tick: Callable[[], None]) -> _Owner | None:
    """Return what a lock says: nothing if it is empty, as crashes leave them; None if it has gone.

    Raises:
        SurfaceError: If what lies there is none.
    """
    end = time.monotonic() + _WRITING_S
    while os.path.lexists(path):
        if seen := _read(path):
            return seen
        if kind := files.special(path):
            raise SurfaceError(f"{path}: is {kind}, not a lock of lsengine's; move it away")
        if time.monotonic() > end:
            if not _content(path).strip(b"\0"):
                return {}
            raise SurfaceError(
                f"{path}: is no lock of lsengine's, or damaged; if no run writes "
                f"{path.name.removesuffix('.lock')}, remove it: rm {path}"
            )
        tick()
        time.sleep(0.05)
    return None


def _refusal(path: Path, seen: _Owner) -> SurfaceError:
    surface = path.name.removesuffix(".lock")
    owner = f"process {seen['pid']} on {seen['host']}"
    if seen["slurm_job_id"]:
        owner += f" (SLURM job {seen['slurm_job_id']})"
    return SurfaceError(
        f"{path.parent / surface}: locked by {owner}; wait for that run, or if it is surely "
        f"dead remove the lock: rm {path}"
    )


def _is_local(seen: _Owner, mine: _Owner) -> bool:
    """Whether the owner's process number means something here (containers have their own)."""
    return bool(seen) and all(seen.get(k) == mine[k] for k in ("boot_id", "pid_namespace"))


def _is_dead(seen: _Owner, mine: _Owner) -> bool:
    """Whether the owner is known to be gone without watching its heartbeat."""
    if _is_local(seen, mine):
        start = _process_start(seen["pid"])
        return start is None or start != seen["process_start"]
    return (
        mine["slurm_job_id"] is not None
        and seen.get("slurm_job_id") == mine["slurm_job_id"]
        and seen["slurm_restart_count"] < mine["slurm_restart_count"]
    )


def _is_silent(path: Path, seen: _Owner, watch_s: float, tick: Callable[[], None]) -> bool:
    end = time.monotonic() + watch_s
    while time.monotonic() < end:
        tick()
        time.sleep(min(0.5, watch_s / 10))
        if _read(path) != seen:
            return False
    return True


def _beat(
    path: Path, mine: _Owner, ended: threading.Event, lost: Callable[[], None], beat_s: float
) -> None:
    while not ended.wait(beat_s):
        seen = _read(path)
        if seen.get("token", mine["token"]) != mine["token"] or not os.path.lexists(path):
            lost()
            return
        mine["heartbeat"] += 1
        # Not through `files.whole`, which waits for the disk: between look and renewal nobody may.
        fresh = path.with_name(f"{path.name}.{mine['token'][:8]}")
        try:
            with fresh.open("x") as file:
                json.dump(mine, file)
            fresh.replace(path)
        except OSError:
            # A full disk must not end the run; the next beat may succeed.
            with contextlib.suppress(OSError):
                fresh.unlink(missing_ok=True)


def _read(path: Path) -> _Owner:
    """Return what a lock says; nothing if it is not there, just being written, or no lock."""
    try:
        found = json.loads(_content(path))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(found, dict) or "boot_id" not in found:
        return {}
    owner: _Owner = {key: found.get(key, blank) for key, blank in _BLANK.items()}
    for key, value in owner.items():
        kinds = int if isinstance(_BLANK[key], int) else str | None
        if not isinstance(value, kinds):
            return {}
    texts = [value for value in owner.values() if isinstance(value, str)]
    is_sane = 0 <= owner["pid"] < 2**31 and not any(map(control_character, texts))
    return owner if is_sane else {}


def _content(path: Path) -> bytes:
    """Return the first bytes of a regular file; raises `OSError` if there is none."""
    if files.special(path):
        raise OSError(errno.EINVAL, "no regular file")
    with os.fdopen(os.open(path, os.O_RDONLY | _AS_IT_IS), "rb") as file:
        return file.read(_MOST_BYTES)


def _process_start(pid: int) -> str | None:
    """Return when a process of this machine started (clock ticks), or None if there is none."""
    try:
        line = Path(f"/proc/{pid}/stat").read_bytes()  # a program's name need be no text
    except OSError:
        return None if Path("/proc/self/stat").exists() else _answers(pid)
    fields = line.rpartition(b")")[2].decode().split()
    return None if fields[0] == "Z" else fields[19]


def _answers(pid: int) -> str | None:
    """Stand in for the start time where there is no /proc: whether the process exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass  # it is there, and somebody else's
    return "alive"
