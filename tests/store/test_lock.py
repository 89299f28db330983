"""The lock beside a surface: refusal, staleness, loss."""

from __future__ import annotations

import contextlib
import errno
import json
import subprocess
import sys
import threading
import time

import pytest

from lsengine.errors import Stopped, SurfaceError
from lsengine.ranks import StopRequest
from lsengine.store import lock

_HOLD = (
    "import sys, time; from pathlib import Path; from lsengine.store import lock\n"
    "with lock.held(Path(sys.argv[1]), lost=lambda: None):\n"
    "    print('held', flush=True); time.sleep(60)"
)


def _hold(path, **options):
    return lock.held(path, lost=options.pop("lost", lambda: None), **options)


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of s.h5."""
    command = [sys.executable, "-c", _HOLD, str(tmp_path / "s.h5")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_lock_goes_away_with_its_run(tmp_path):
    """While held there is a sidecar, afterwards none."""
    with _hold(tmp_path / "s.h5"):
        assert lock.owner(tmp_path / "s.h5") is not None
    assert list(tmp_path.iterdir()) == []


def test_a_running_owner_is_respected(tmp_path, holder):
    """A second run is refused at once and told who holds it and how to remove the lock."""
    start = time.monotonic()
    refusal = pytest.raises(SurfaceError, match=f"process {holder.pid}.*rm .*s.h5.lock")
    with refusal, _hold(tmp_path / "s.h5"):
        pass
    assert time.monotonic() - start < 5


def test_a_killed_owner_is_replaced_at_once(tmp_path, holder):
    """The same boot has no such process: nothing to wait for."""
    holder.kill()
    holder.wait()
    assert lock.owner(tmp_path / "s.h5") is None
    with _hold(tmp_path / "s.h5"):
        assert lock.owner(tmp_path / "s.h5") is not None


def _foreign(path, **changes):
    found = {**lock._identity(), "host": "elsewhere", "boot_id": "another", **changes}
    lock.lock_path(path).write_text(json.dumps(found))
    return found


def test_a_foreign_owner_that_beats_is_respected(tmp_path):
    """A heartbeat that changes while it is watched keeps the lock, whatever its clock says."""
    path = tmp_path / "s.h5"
    found = _foreign(path)

    def beat():
        time.sleep(0.3)
        lock.lock_path(path).write_text(json.dumps({**found, "heartbeat": 1}))

    thread = threading.Thread(target=beat)
    thread.start()
    with pytest.raises(SurfaceError, match="elsewhere"), _hold(path, watch_s=5):
        pass
    thread.join()


def test_a_foreign_owner_that_is_silent_is_replaced(tmp_path):
    """A heartbeat that does not change for the time of watching belongs to a dead run."""
    _foreign(tmp_path / "s.h5")
    with _hold(tmp_path / "s.h5", watch_s=0.5):
        assert lock._read(lock.lock_path(tmp_path / "s.h5"))["host"] != "elsewhere"


def test_watching_a_silent_owner_ends_when_a_stop_is_asked_for(tmp_path):
    """Half a second after the signal, and not after a minute and a half."""
    _foreign(tmp_path / "s.h5")
    stop, start = StopRequest(), time.monotonic()
    threading.Timer(0.2, stop.request, ["SIGUSR1"]).start()
    watching = _hold(tmp_path / "s.h5", watch_s=30, tick=stop.raise_if_requested)
    with pytest.raises(Stopped, match="SIGUSR1"), watching:
        pass
    assert time.monotonic() - start < 10
    assert lock._read(lock.lock_path(tmp_path / "s.h5"))["host"] == "elsewhere"


def test_a_requeued_job_replaces_its_own_earlier_life(tmp_path, monkeypatch):
    """The same SLURM job with a lower restart count is dead; an equal one is watched."""
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    _foreign(tmp_path / "s.h5", slurm_restart_count=1)
    start = time.monotonic()
    with _hold(tmp_path / "s.h5", watch_s=30):
        assert time.monotonic() - start < 5


def test_losing_the_lock_is_noticed(tmp_path):
    """When somebody else's token is in the sidecar, the owner is told and leaves it alone."""
    path, lost = tmp_path / "s.h5", threading.Event()
    with _hold(path, lost=lost.set, beat_s=0.05):
        _foreign(path, token="other")
        assert lost.wait(5)
    assert lock._read(lock.lock_path(path))["token"] == "other"


def test_the_heartbeat_changes(tmp_path):
    """Renewed from a thread, so that a long cell does not look like death."""
    path = tmp_path / "s.h5"
    with _hold(path, beat_s=0.05):
        first = lock._read(lock.lock_path(path))["heartbeat"]
        end = time.monotonic() + 5
        while lock._read(lock.lock_path(path)).get("heartbeat") in (None, first):
            assert time.monotonic() < end
            time.sleep(0.02)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fails", [False, True])
def test_a_lock_that_cannot_be_removed_is_a_warning(tmp_path, monkeypatch, caplog, fails):
    """A folder that has become read-only changes no outcome: no error, or the run's own."""

    def refuse(path, **options):
        raise PermissionError(errno.EPERM, "Operation not permitted", str(path))

    outcome = pytest.raises(ZeroDivisionError) if fails else contextlib.nullcontext()
    with outcome, _hold(tmp_path / "s.h5"):
        monkeypatch.setattr(type(tmp_path), "unlink", refuse)
        if fails:
            raise ZeroDivisionError
    assert "the lock cannot be removed (Operation not permitted)" in caplog.text
    assert f"rm {tmp_path / 's.h5.lock'}" in caplog.text
