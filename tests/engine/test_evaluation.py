"""Evaluations: several jobs in one launch, and a clock that jumps."""

from __future__ import annotations

import functools
import itertools
import json
import math
import os
import shutil
import signal
import threading
import time

import pytest

from lsengine import store
from lsengine.engine import Options, evaluate, evaluation
from lsengine.errors import EnvironmentUnfit, Stopped
from lsengine.report import status
from lsengine.store import lock
from tests.support.jobs import values, write_job


def test_a_clock_that_jumps_disturbs_nothing(make_job, monkeypatch, tmp_path):
    """Days forth and back at every look: same values, lock kept and renewed, a sensible rate."""
    assert evaluate([make_job("steady")], Options(progress="none"), world=None) == 0
    jumps = itertools.cycle([0.0, 86400.0, -86400.0, 3.0e6])
    now, beats = time.time, []
    monkeypatch.setattr(time, "time", lambda: now() + next(jumps))
    monkeypatch.setattr(evaluation, "held", functools.partial(lock.held, beat_s=0.01))
    write = store.Writer.write

    def look(writer, results):
        write(writer, results)
        beats.append(lock.owner(tmp_path / "jumps.h5"))

    monkeypatch.setattr(store.Writer, "write", look)
    options = Options(progress="lines", chunk=1)
    assert evaluate([make_job("jumps", output="jumps.h5")], options, world=None) == 0
    assert all(beat is not None for beat in beats)
    assert beats[-1]["heartbeat"] > 0
    assert values(tmp_path / "jumps.h5") == values(tmp_path / "steady.h5")
    rate = status.summary(tmp_path / "jumps.h5").rate_per_s
    assert rate is None or 0 < rate < math.inf


def test_a_folder_that_is_removed_during_a_run_is_no_stop(make_job, monkeypatch, tmp_path):
    """The lock has gone with it: exit code 3, because the same command could not go on."""
    monkeypatch.setattr(evaluation, "held", functools.partial(lock.held, beat_s=0.01))
    write = store.Writer.write

    def remove(writer, results):
        write(writer, results)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)

    monkeypatch.setattr(store.Writer, "write", remove)
    model = {"arch": "testnets:Slow", "args": {"seconds": 0.02}, "checkpoint": "centre.pt"}
    job = make_job(model=model, output="out/x.h5")
    with pytest.raises(EnvironmentUnfit, match=r"not there any more .*loss of the surface's lock"):
        evaluate([job], Options(progress="none", chunk=1), world=None)


def test_several_jobs_in_one_launch(make_job, pool, tmp_path):
    """One launch evaluates all; a job with failed cells does not keep the next from it."""
    fragile = {"arch": "testnets:Fragile", "args": {"repaired": "no"}, "checkpoint": "centre.pt"}
    curve = {
        "directions": {"alpha": {"kind": "random", "ignore": []}},
        "grid": {"alpha": [-1, 1, 3]},
    }
    first = make_job("first", model=fragile, **curve)
    second = write_job(tmp_path / "elsewhere", "second", **curve)
    answer = pool.evaluate([first, second], 3)
    assert answer["code"] == 5
    assert "first.h5" in answer["message"]
    assert store.read(second.with_suffix(".h5")).counts()["done"] == 3


def test_a_signal_ends_the_watching_of_a_foreign_lock(make_job):
    """A run that waits for another host's dead run can be stopped as any other; the lock stays."""
    job = make_job()
    foreign = job.with_suffix(".h5.lock")
    foreign.write_text(json.dumps({"host": "elsewhere", "boot_id": "another", "heartbeat": 0}))
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGUSR1))
    timer.start()
    start = time.monotonic()
    with pytest.raises(Stopped, match="SIGUSR1"):
        evaluate([job], Options(progress="none"), world=None)
    assert time.monotonic() - start < 30
    assert foreign.exists()
