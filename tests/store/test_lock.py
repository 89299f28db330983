"""The lock beside a surface: refusal, staleness, loss."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
import threading
import time

import pytest

from lsengine.errors import EnvironmentUnfit, Stopped, SurfaceError, UsageError
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


@pytest.mark.parametrize("has_gone", [False, True])
def test_a_stop_in_a_folder_that_has_gone_is_no_stop(tmp_path, has_gone):
    """The same command could not go on; a lock that is removed alone leaves a stop a stop."""
    path, lost = tmp_path / "folder" / "s.h5", threading.Event()
    path.parent.mkdir()

    def run():
        with _hold(path, lost=lost.set, beat_s=0.05):
            lock.lock_path(path).unlink()
            if has_gone:
                path.parent.rmdir()
            assert lost.wait(5)
            raise Stopped("stopped by the loss of its lock")

    with pytest.raises(EnvironmentUnfit if has_gone else Stopped, match="the loss of its lock"):
        run()


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


def _refusal(path):
    with pytest.raises(SurfaceError) as refused, _hold(path, watch_s=60):
        pass
    text = str(refused.value)
    assert text.startswith(f"{path}.lock: ")
    assert text.isprintable()
    return text


@pytest.mark.parametrize("kind", ["a link", "a dangling link", "a directory", "a FIFO", "a device"])
def test_what_is_no_file_is_refused_and_never_opened(tmp_path, kind):
    """At once, by what it is; the target of a link stays as it was, and none is made."""
    path, target = tmp_path / "s.h5", tmp_path / "target"
    found = lock.lock_path(path)
    if kind == "a directory":
        found.mkdir()
    elif kind == "a FIFO":
        os.mkfifo(found)
    else:
        names = {"a link": target, "a dangling link": tmp_path / "no", "a device": "/dev/zero"}
        found.symlink_to(names[kind])
        target.write_text("precious")
        kind = "a link"
    start = time.monotonic()
    assert f"is {kind}, not a lock" in _refusal(path)
    assert lock.owner(path) is None
    assert time.monotonic() - start < 5
    assert os.path.lexists(found)
    assert not (tmp_path / "no").exists()
    assert not target.exists() or target.read_text() == "precious"


@pytest.mark.parametrize(
    "content",
    [
        b"notes of a user",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b"null",
        b'{"pid": 1}',
        b"[" * 4096,
        b"9" * 4096,
        b"{" * 10_000_000,
    ],
)
def test_a_file_that_is_no_lock_is_refused_and_kept(tmp_path, monkeypatch, content):
    """It may be a user's own, or a lock that is damaged: a person decides."""
    monkeypatch.setattr(lock, "_WRITING_S", 0.1)
    path = tmp_path / "s.h5"
    lock.lock_path(path).write_bytes(content)
    assert f"rm {path}.lock" in _refusal(path)
    assert lock.owner(path) is None
    assert lock.lock_path(path).read_bytes() == content


@pytest.mark.parametrize(
    "changes",
    [
        {"pid": "x"},
        {"pid": 10**30},
        {"pid": -1},
        {"pid": None},
        {"host": 3},
        {"host": "a\x1b[2Jb"},
        {"token": ["a"]},
        {"boot_id": None, "slurm_restart_count": "x"},
        {"slurm_job_id": {"a": 1}},
        {"process_start": 1.5},
    ],
)
def test_values_of_other_types_make_no_lock(tmp_path, monkeypatch, changes):
    """Whether they claim to be of this machine or of another."""
    monkeypatch.setattr(lock, "_WRITING_S", 0.1)
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    path = tmp_path / "s.h5"
    for of_here in ({}, {"host": "elsewhere", "boot_id": "another"}):
        lock.lock_path(path).write_text(json.dumps({**lock._identity(), **of_here, **changes}))
        assert "is no lock of lsengine's" in _refusal(path)
        assert lock.owner(path) is None


@pytest.mark.parametrize("content", [b"", b"\0" * 300])
def test_what_a_crash_has_left_of_a_lock_is_taken_over(tmp_path, monkeypatch, content):
    """A file system may keep the name and lose the bytes; no run needs longer to write them."""
    monkeypatch.setattr(lock, "_WRITING_S", 0.1)
    path = tmp_path / "s.h5"
    lock.lock_path(path).write_bytes(content)
    with _hold(path, watch_s=60):
        assert lock.owner(path) is not None


def test_a_lock_that_is_just_being_written_is_respected(tmp_path, holder):
    """For a moment it is empty."""
    path = tmp_path / "s.h5"
    content = lock.lock_path(path).read_bytes()
    lock.lock_path(path).write_bytes(b"")
    timer = threading.Timer(0.3, lock.lock_path(path).write_bytes, [content])
    timer.start()
    assert f"process {holder.pid}" in _owned(path)
    timer.join()


def _owned(path):
    with pytest.raises(SurfaceError, match="locked by") as refused, _hold(path):
        pass
    return str(refused.value)


def test_a_lock_that_another_program_has_locked_is_not_waited_for(tmp_path, monkeypatch):
    """It may keep it for good."""
    monkeypatch.setattr(lock, "_WRITING_S", 0.1)
    path = tmp_path / "s.h5"
    lock.lock_path(path).write_bytes(b"")
    with lock.lock_path(path).open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "another program has locked it" in _refusal(path)


def test_a_stop_is_heard_while_an_odd_lock_is_looked_at(tmp_path):
    """As while a foreign one is watched."""
    path, stop = tmp_path / "s.h5", StopRequest()
    lock.lock_path(path).write_bytes(b"odd")
    stop.request("SIGTERM")
    with pytest.raises(Stopped), _hold(path, tick=stop.raise_if_requested):
        pass


def test_a_lock_that_turns_into_a_link_is_not_followed(tmp_path):
    """The heartbeat puts a file in its place."""
    path, target = tmp_path / "s.h5", tmp_path / "target"
    target.write_text("precious")
    with _hold(path, beat_s=0.05):
        (tmp_path / "link").symlink_to(target)
        (tmp_path / "link").rename(lock.lock_path(path))
        end = time.monotonic() + 5
        while lock.lock_path(path).is_symlink():
            assert time.monotonic() < end
            time.sleep(0.02)
    assert target.read_text() == "precious"


@pytest.mark.parametrize("count", ["x", "", "-1", "9" * 5000, "\u0661"])
def test_a_count_of_restarts_that_is_no_number_counts_as_none(monkeypatch, count):
    """Only a lock of an earlier round is then recognised later, by watching it."""
    monkeypatch.setenv("SLURM_RESTART_COUNT", count)
    assert lock._identity()["slurm_restart_count"] == 0


@pytest.mark.parametrize("number", ["1\n2", "x" * 10_000, "", "\x1b[2J"])
def test_a_job_number_that_is_none_makes_no_odd_lock(tmp_path, monkeypatch, number):
    """Others can read the lock, and its owner removes it."""
    monkeypatch.setenv("SLURM_JOB_ID", number)
    with _hold(tmp_path / "s.h5"):
        assert lock.owner(tmp_path / "s.h5")["slurm_job_id"] is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x" * 240 + ".h5", "folder", "fifo"])
def test_a_file_that_cannot_be_made_is_refused_before_its_lock(tmp_path, name):
    """The lock's own name is longer."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(
        UsageError, match=r"243 bytes; expected at most|expected the name of a file"
    ):
        _hold(tmp_path / name).__enter__()
    assert {path.name for path in tmp_path.iterdir()} == {"folder", "fifo"}


def test_a_process_whose_name_is_no_text_has_a_start(tmp_path):
    """Any bytes may be a program's name."""
    name = os.fsencode(tmp_path) + b"/\xff)("
    shutil.copy("/bin/sleep", name)
    with subprocess.Popen([name, b"60"]) as process:
        assert int(lock._process_start(process.pid)) > 0
        process.kill()
