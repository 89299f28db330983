"""Rounds of batch jobs on a real SLURM: ended by the time limit, cancelled, killed, given up.

Each test waits with a limit; all of them check the bytes against an undisturbed run's.
"""

from __future__ import annotations

import time

import pytest

from lsengine import store
from lsengine.engine import Options, evaluate
from tests.support.batch_jobs import (
    GRID,
    HYDRA,
    MPICH,
    OPENMPI,
    QUICK,
    SLOW,
    binaries_for,
    log_of,
    submit,
)
from tests.support.jobs import values, write_job

HURRY = """
import os
import time

if os.environ.get("SLURM_RESTART_COUNT"):
    sleep = time.sleep
    time.sleep = lambda seconds: sleep(min(seconds, 0.002))
"""


def _until_done_by_rounds(cluster, tmp_path, expected, launch):
    """Submit a surface that takes longer than its first round, and follow it to its end.

    SLURM looks at jobs every half a minute and warns up to a minute early: of this limit 30 to 60 s
    after the start.  The first round would take longer than that, the next ones do not.
    """
    (tmp_path / "sitecustomize.py").write_text(HURRY)
    launch = {
        **launch,
        "environment": {**launch["environment"], "PYTHONPATH": str(tmp_path)},
        "ranks": 2,
        "time": "2",
        "signal_s": 30,
        "max_fruitless": 5,
    }
    if launch["launcher"] == "openmpi":
        launch["launcher_options"] = [*launch["launcher_options"], "-x", "PYTHONPATH"]
    model = {**SLOW, "args": {"seconds": 1.0}}
    job = write_job(tmp_path, model=model, grid=GRID, launch=launch)
    number = submit(cluster, job, binaries=binaries_for(launch))["eval"]
    ended = cluster.wait_for_end(number, 300)
    log = log_of(job)
    assert ended["JobState"] == "COMPLETED", log
    assert int(ended["Restarts"]) >= 1, log
    assert "the time limit is near" in log, log
    assert "ended with 75" in log, log
    assert log.count("back into the queue") == int(ended["Restarts"])
    assert values(job.with_suffix(".h5")) == expected(model=QUICK, grid=GRID)


def _wait_for_a_cell(job):
    surface, end = job.with_suffix(".h5"), time.monotonic() + 90
    while not (surface.exists() and store.read(surface).done.any()):
        assert time.monotonic() < end, log_of(job)
        time.sleep(0.1)


def test_the_time_limit_costs_no_cell_and_no_byte(cluster, tmp_path, expected):
    """Warned of the limit, ranks stop with 75 and the job requeues itself until it is done."""
    _until_done_by_rounds(cluster, tmp_path, expected, MPICH)


@pytest.mark.cluster
@pytest.mark.parametrize("launch", [OPENMPI, HYDRA], ids=["openmpi", "hydra"])
def test_the_time_limit_under_other_launchers(cluster, tmp_path, expected, launch):
    """The same under mpirun of Open MPI and hydra of MPICH."""
    _until_done_by_rounds(cluster, tmp_path, expected, launch)


def test_a_cancelled_job_leaves_a_file_that_goes_on(cluster, tmp_path, expected):
    """After scancel the job is not put back; eval completes the surface with the same bytes."""
    grid = {"alpha": [-1, 1, 6], "beta": [-1, 1, 5]}
    launch = {**OPENMPI, "ranks": 2, "time": "10"}
    job = write_job(tmp_path, model={**SLOW, "args": {"seconds": 0.04}}, grid=grid, launch=launch)
    surface = job.with_suffix(".h5")
    number = submit(cluster, job)["eval"]
    _wait_for_a_cell(job)
    cluster.call("scancel", number)
    assert cluster.wait_for_end(number, 60)["JobState"] == "CANCELLED"
    assert "back into the queue" not in log_of(job)
    counts = store.read(surface).counts()
    assert counts["done"] > 0
    assert counts["missing"] > 0
    assert evaluate([job], Options(progress="none"), world=None) == 0
    assert values(surface) == expected(model=QUICK, grid=grid)


@pytest.mark.cluster
def test_a_job_that_bears_no_fruit_gives_up(cluster, tmp_path):
    """Cells longer than a round: after two fruitless rounds the job is not put back."""
    job = write_job(
        tmp_path,
        model={**SLOW, "args": {"seconds": 5.0}},
        launch={**OPENMPI, "ranks": 2, "time": "1", "signal_s": 40, "max_fruitless": 2},
    )
    ended = cluster.wait_for_end(submit(cluster, job)["eval"], 240)
    assert ended["JobState"] == "FAILED"
    assert ended["ExitCode"] == "75:0"
    assert ended["Restarts"] == "1"
    assert "giving up: 2 round(s) in a row have finished nothing new" in log_of(job)


KILLER = """
import os
import signal

if os.environ.get("OMPI_COMM_WORLD_RANK") == "1" and not os.environ.get("SLURM_RESTART_COUNT"):
    from lsengine import store

    write = store.Writer.write

    def die(self, results):
        write(self, results)
        os.kill(os.getpid(), signal.SIGKILL)

    store.Writer.write = die
"""


@pytest.mark.cluster
@pytest.mark.parametrize(("launcher", "restarts"), [("openmpi", "1"), ("openmpi-ulfm", "0")])
def test_a_killed_worker_does_not_end_a_job(cluster, tmp_path, expected, launcher, restarts):
    """A launcher's own status is no verdict: another round completes the surface; with ULFM, this.

    The worker kills itself when it has written its first cells, in the first round only.
    """
    (tmp_path / "sitecustomize.py").write_text(KILLER)
    launch = {
        **OPENMPI,
        "environment": {**OPENMPI["environment"], "PYTHONPATH": str(tmp_path)},
        "launcher_options": [*OPENMPI["launcher_options"], "-x", "PYTHONPATH"],
        "launcher": launcher,
        "ranks": 3,
        "time": "10",
        "coordinator": "waits",
    }
    job = write_job(tmp_path, model=SLOW, grid=GRID, launch=launch)
    ended = cluster.wait_for_end(submit(cluster, job)["eval"], 180)
    log = log_of(job)
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", restarts), log
    assert ("ended with 137" in log) == (restarts == "1"), log
    assert values(job.with_suffix(".h5")) == expected(model=QUICK, grid=GRID)


@pytest.mark.cluster
def test_a_wrong_job_is_not_put_back(cluster, tmp_path):
    """Another job's file: exit 4, said, and no second round; what depends on it is cancelled."""
    job = write_job(tmp_path, launch={**OPENMPI, "ranks": 2, "time": "10"})
    assert evaluate([job], Options(progress="none"), world=None) == 0
    write_job(tmp_path, seed=7, launch={**OPENMPI, "ranks": 2, "time": "10"})
    number = submit(cluster, job)["eval"]
    after = cluster.call(
        *("sbatch", "--parsable", f"--dependency=afterok:{number}", "--kill-on-invalid-dep=yes"),
        *("--output=/dev/null", "--wrap=true"),
    ).strip()
    ended = cluster.wait_for_end(number, 120)
    assert (ended["ExitCode"], ended["Restarts"]) == ("4:0", "0"), log_of(job)
    assert "another round would not help" in log_of(job)
    assert cluster.wait_for_end(after, 60)["JobState"] == "CANCELLED"
