"""Checkpoints are cells: killed among them, a run goes on with those that are missing."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import numpy as np

from lsengine import store
from lsengine.engine import Options, evaluate
from tests.support.jobs import values
from tests.support.kills import rank_processes, sound
from tests.support.launchers import BIN, launcher_environment
from tests.support.runs import run_job
from tests.support.surfaces import edited

SLOW = {
    "arch": "testnets:Slow",
    "args": {"seconds": 0.02},
    "checkpoint": "run/epoch_008.pt",
}


def _slow_job(folder, name):
    grid = {"alpha": ["auto", 2], "beta": ["auto", 2]}
    return run_job(folder, name, model=SLOW, grid=grid)


def test_killed_among_checkpoints_a_run_goes_on_with_the_rest(tmp_path):
    """SIGKILL of all ranks: what was done stays and is right; the end has the same bytes."""
    run_job(tmp_path, arch="testnets:Slow")
    reference = _slow_job(tmp_path, "reference")
    assert evaluate([reference], Options(progress="none"), world=None) == 0
    expected = store.read(reference.with_suffix(".h5")).trajectory
    job = _slow_job(tmp_path, "killed")
    killed = _killed(job)
    done = killed.done
    assert 0 < done.sum() < 9
    for name in ("train_loss", "plane_test_loss"):
        np.testing.assert_array_equal(killed.columns[name][done], expected.columns[name][done])
    kept = int(np.flatnonzero(done)[0])
    with edited(job.with_suffix(".h5")) as file:
        file["trajectory/train_loss"][kept] = -1.0
    assert evaluate([job], Options(progress="none"), world=None) == 0
    with edited(job.with_suffix(".h5")) as file:
        assert file["trajectory/train_loss"][kept] == -1.0  # not computed again
        file["trajectory/train_loss"][kept] = expected.columns["train_loss"][kept]
    assert values(job.with_suffix(".h5")) == values(reference.with_suffix(".h5"))


def _killed(job):
    """Kill all ranks of a run when some checkpoints are done; return the trajectory."""
    command = [str(BIN / "mpirun"), "-n", "2", str(BIN / "lsengine"), "trajectory", str(job)]
    process = subprocess.Popen(
        command,
        env=launcher_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    surface = job.with_suffix(".h5")
    try:
        end = time.monotonic() + 60
        while not surface.exists() or not store.read(surface).trajectory.done.any():
            assert process.poll() is None, "the run has ended before it could be killed"
            assert time.monotonic() < end
            time.sleep(0.01)
        for rank in rank_processes(process.pid):
            os.kill(rank, signal.SIGKILL)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)
    finally:
        for survivor in rank_processes(process.pid):
            os.kill(survivor, signal.SIGKILL)
        process.kill()
        process.wait()
    return sound(surface).trajectory
