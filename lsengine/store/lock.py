"""The lock beside a surface file: one run at a time, and none that outlives its owner.

A file system lock would be lost or refused on network file systems; a sidecar with the
owner's identity and a heartbeat works on all of them.  Clocks of different hosts are never
compared: a foreign lock is judged by whether its heartbeat *changes* while it is watched.

One weakness remains.  A process that is paused for longer than others watch its lock, and just
between reading the lock and renewing it, overwrites the lock of the run that has taken over.  That
run sees a foreign token at its next heartbeat and stops cleanly, so two runs write for seconds at
most; both write the same values into the same cells.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lsengine.errors import EnvironmentUnfit, SurfaceError

log = logging.getLogger(__name__)
BEAT_S = 30.0
WATCH_S = 90.0
_Owner = dict[str, Any]
_DYING_S = 3.0  # a killed process takes a moment to give its memory back and go


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
        SurfaceError: If another run holds the lock.
    """
    path, mine = lock_path(surface), _identity()
    try:  # round again when the owner of a lock leaves meanwhile
        while not _create(path, mine) and not _take_over(path, mine, watch_s, tick):
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
    namespace = ""
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
        "slurm_job_id": os.environ.get("SLURM_JOB_ID"),
        "slurm_restart_count": int(os.environ.get("SLURM_RESTART_COUNT", "0")),
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
    seen = _read(path)
    end = time.monotonic() + _DYING_S
    while _is_local(seen, mine) and not _is_dead(seen, mine) and time.monotonic() < end:
        time.sleep(0.1)
    is_foreign = not _is_local(seen, mine)
    is_stale = _is_dead(seen, mine) or (is_foreign and _is_silent(path, seen, watch_s, tick))
    if not path.exists():
        return False
    if not is_stale:
        raise _refusal(path, seen)
    try:
        with path.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # A heartbeat or a new owner puts another file under the name.
            is_same = os.path.samestat(path.stat(), os.fstat(file.fileno()))
            if not is_same or _read(path) != seen:
                return False
            file.truncate()
            json.dump(mine, file)
    except FileNotFoundError:
        return False
    return True


def _refusal(path: Path, seen: _Owner) -> SurfaceError:
    surface = path.name.removesuffix(".lock")
    owner = f"process {seen.get('pid', '?')} on {seen.get('host', '?')}"
    if seen.get("slurm_job_id"):
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
        return _process_start(int(seen.get("pid", 0))) != seen.get("process_start")
    return (
        mine["slurm_job_id"] is not None
        and seen.get("slurm_job_id") == mine["slurm_job_id"]
        and int(seen.get("slurm_restart_count", 0)) < mine["slurm_restart_count"]
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
        if seen.get("token", mine["token"]) != mine["token"] or not path.exists():
            lost()
            return
        mine["heartbeat"] += 1
        # Not through `files.whole`, which waits for the disk: between look and renewal nobody may.
        fresh = path.with_name(f"{path.name}.{mine['token'][:8]}")
        try:
            fresh.write_text(json.dumps(mine))
            fresh.replace(path)
        except OSError:
            # A full disk must not end the run; the next beat may succeed.
            with contextlib.suppress(OSError):
                fresh.unlink(missing_ok=True)


def _read(path: Path) -> _Owner:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}  # just being written or removed; an unreadable lock is watched like a foreign one
    return content if isinstance(content, dict) else {}


def _process_start(pid: int) -> str | None:
    """Return when a process of this machine started (clock ticks), or None if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None if Path("/proc/self/stat").exists() else _answers(pid)
    fields = text.rpartition(")")[2].split()
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
