"""What goes wrong on clusters, made to go wrong here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from lsengine import store
from lsengine.engine import Options, evaluate
from tests.support.jobs import values, write_job
from tests.support.kills import random_trials, rank_processes, trial
from tests.support.launchers import (
    BIN,
    launcher_environment,
    run_alone,
    run_ranks,
    serial_environment,
    start_run,
    wait_for_cells,
)

QUIET = Options(progress="none")
SLOW = {"arch": "testnets:Slow", "args": {"seconds": 0.02}, "checkpoint": "centre.pt"}


def test_killed_ranks_lose_nothing_that_was_finished(tmp_path, pool):
    """SIGKILL of a worker, the coordinator or all, at random moments, in both ways of writing.

    Every file opens, no cell is wrong or done without its values, a resume by another number of
    ranks keeps finished cells, and ends with the bytes of an undisturbed run.
    """
    resumes = [lambda job, n=n: pool.evaluate(job, n)["code"] for n in (1, 2, 4, 5)]
    seed = int(time.time())
    print("seed of the moments:", seed)  # pytest shows it with a failure
    trials = random_trials(tmp_path, count=8, seed=seed, resumes=resumes)
    assert sum(trial.is_in_the_middle for trial in trials) >= 2, (seed, trials)


@pytest.mark.slow
def test_a_hundred_kills_lose_nothing(tmp_path):
    """The same a hundred times."""
    trials = random_trials(tmp_path, count=100, seed=1)
    assert sum(trial.is_in_the_middle for trial in trials) >= 30, trials


def test_gathering_loses_only_the_last_moment(make_job):
    """Cells finished more than a second before everything is killed are in the file."""
    model = {**SLOW, "args": {"seconds": 0.003}}
    grid = {"alpha": [-1, 1, 21], "beta": [-1, 1, 21]}
    job = make_job(model=model, grid=grid, writing="gather")
    quick = make_job("reference", model={**SLOW, "args": {"seconds": 0.0}}, grid=grid)
    assert evaluate([quick], QUIET, world=None) == 0
    reference = values(job.with_name("reference.h5"))
    lags = []
    while not lags or min(lags) >= 1:  # three times: the machine may have stood still
        job.with_suffix(".h5").unlink(missing_ok=True)
        killed = trial(job, "all", 0.5, reference, cells=50, chunk=None)
        assert killed.is_in_the_middle, killed
        lags.append(killed.lag_s)
        assert len(lags) < 3 or min(lags) < 1, lags


@pytest.mark.parametrize(
    ("target", "launcher"),
    [
        *(("launcher", []), ("worker", [])),
        pytest.param("coordinator", [], marks=pytest.mark.cluster),
        pytest.param("launcher", ["--with-ft", "ulfm"], marks=pytest.mark.cluster),
    ],
)
def test_sigusr1_stops_cleanly_wherever_it_arrives(make_job, target, launcher):
    """All ranks leave between mini-batches with code 75, the lock is gone, cells are kept."""
    job = make_job(model=SLOW, grid={"alpha": [-1, 1, 9], "beta": [-1, 1, 9]})
    process = start_run(job, launcher=launcher)
    ranks = rank_processes(process.pid)
    receiver = {"launcher": process.pid, "coordinator": ranks[0], "worker": ranks[-1]}[target]
    os.kill(receiver, signal.SIGUSR1)
    text = process.communicate(timeout=30)[0]
    assert process.returncode == 75, text
    assert "SIGUSR1" in text
    assert "the same command goes on" in text
    assert "Traceback" not in text
    counts = store.read(job.with_suffix(".h5")).counts()
    assert counts["done"] > 0
    assert counts["missing"] > 0
    assert not job.with_suffix(".h5.lock").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_signals_stop_a_process_alone(make_job, number):
    """Without a launcher all three signals are a clean stop with code 75."""
    job = make_job(model=SLOW, grid={"alpha": [-1, 1, 9], "beta": [-1, 1, 9]})
    process = subprocess.Popen(
        [str(BIN / "lsengine"), "eval", str(job)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for_cells(job.with_suffix(".h5"), process)
    process.send_signal(number)
    text = process.communicate(timeout=30)[0]
    assert process.returncode == 75, text
    assert signal.Signals(number).name in text
    assert store.read(job.with_suffix(".h5")).counts()["missing"] > 0


def test_a_stop_abandons_the_cell_in_hand(make_job):
    """A cell of many seconds does not hold up the stop, which comes between mini-batches."""
    args = {"seconds": 0.01, "rank": 1, "times": 200}  # six batches a cell
    model = {"arch": "testnets:Uneven", "args": args, "checkpoint": "centre.pt"}
    job = make_job(
        model=model,
        grid={"alpha": [-1, 1, 2], "beta": [-1, 1, 2]},
        launch={"coordinator": "waits"},
    )
    command = [str(BIN / "mpirun"), "-n", "2", str(BIN / "lsengine"), "eval", str(job)]
    process = subprocess.Popen(
        command,
        env=launcher_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    end = time.monotonic() + 60
    while not job.with_suffix(".h5").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    time.sleep(1.5)
    start = time.monotonic()
    process.send_signal(signal.SIGUSR1)
    text = process.communicate(timeout=30)[0]
    assert process.returncode == 75, text
    assert time.monotonic() - start < 10


def test_an_exception_outside_a_cell_ends_all_ranks_with_a_traceback(make_job, tmp_path):
    """A bug on one worker: exit 1, rank and host and traceback, no hang, cells kept."""
    job = make_job(model=SLOW, grid={"alpha": [-1, 1, 9], "beta": [-1, 1, 9]})
    broken = tmp_path / "sitecustomize.py"
    broken.write_text(
        "import os\n"
        "if os.environ.get('OMPI_COMM_WORLD_RANK') == '2':\n"
        "    from lsengine import store\n"
        "    write = store.Writer.write\n"
        "    def fail(self, results):\n"
        "        write(self, results)\n"
        "        raise ZeroDivisionError('made to fail')\n"
        "    store.Writer.write = fail\n"
    )
    arguments = ["eval", str(job), "--chunk", "3"]
    ended = run_ranks(3, arguments, PYTHONPATH=str(tmp_path))
    assert ended.returncode == 1, ended.stderr
    assert "r002" in ended.stderr
    assert "ZeroDivisionError: made to fail" in ended.stderr
    assert store.read(job.with_suffix(".h5")).counts()["done"] >= 3


def test_a_worker_that_reads_another_checkpoint_is_found_out(make_job, tmp_path):
    """A file that differs between hosts ends the run with exit 2, its key, rank and host."""
    job = make_job(launch={"coordinator": "waits"})
    content = torch.load(tmp_path / "centre.pt")
    content["state_dict"]["0.weight"] += 1
    torch.save(content, tmp_path / "other.pt")
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        "from pathlib import Path\n"
        "if os.environ.get('OMPI_COMM_WORLD_RANK') == '1':\n"
        "    from lsengine import files\n"
        "    from lsengine.models import checkpoint\n"
        "    for module, name in ((checkpoint, 'load'), (files, 'sha256')):\n"
        "        def elsewhere(path, *, original=getattr(module, name), **more):\n"
        "            return original(Path(path).with_name('other.pt'), **more)\n"
        "        setattr(module, name, elsewhere)\n"
    )
    ended = run_ranks(2, ["eval", str(job)], PYTHONPATH=str(tmp_path), timeout=60)
    assert ended.returncode == 2, ended.stderr
    assert "checkpoint: its content differs from what rank 0 has read" in ended.stderr
    assert "rank 1 on" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_signal_during_start_up_is_a_clean_stop(make_job):
    """SIGUSR1 while a process still connects and imports ends it with code 75, not by a kill."""
    script = (
        "import os, signal, sys\n"
        "from lsengine import ranks\n"
        "from lsengine.cli import main\n"
        "join = ranks.join\n"
        "def signalled():\n"
        "    world = join()\n"
        "    os.kill(os.getpid(), signal.SIGUSR1)\n"
        "    return world\n"
        "ranks.join = signalled\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, "eval", str(make_job())],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 75, ended.stderr
    assert "stopped by SIGUSR1" in ended.stderr


def test_a_second_run_on_the_same_surface_is_refused(make_job):
    """While one run writes, another is told who holds the file, with exit 4."""
    job = make_job(model=SLOW, grid={"alpha": [-1, 1, 41], "beta": [-1, 1, 41]})
    process = start_run(job)
    try:
        second = run_alone(["eval", str(job)])
        status = run_alone(["status", str(job)])
    finally:
        process.send_signal(signal.SIGUSR1)
        process.communicate(timeout=30)
    assert second.returncode == 4
    assert "locked by process" in second.stderr
    assert "running" in status.stdout


def test_waiting_costs_next_to_nothing(make_job):
    """The coordinator and a worker without work use under 2 % of a core while one works.

    A cell of half a minute keeps one worker busy; the processor time of all three is read from the
    kernel at both ends of a wait.  The least of several waits counts, because what else a
    machine does makes the same work take longer, never shorter.
    """
    args = {"seconds": 0.01, "rank": [1, 2], "times": 400, "most": 5}  # six batches a cell
    model = {"arch": "testnets:Uneven", "args": args, "checkpoint": "centre.pt"}
    job = make_job(model=model, directions={"alpha": {"kind": "random"}}, grid={"alpha": [1, 1, 1]})
    command = [str(BIN / "mpirun"), "-n", "3", str(BIN / "lsengine"), "eval", str(job)]
    process = subprocess.Popen(
        command, env=launcher_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    end = time.monotonic() + 60
    while not job.with_suffix(".h5").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    time.sleep(3)
    ranks = rank_processes(process.pid)
    assert len(ranks) == 3
    shares = [1.0] * 3
    for _ in range(4):
        before, start = [_cpu_s(r) for r in ranks], time.monotonic()
        time.sleep(4)
        after, waited = [_cpu_s(r) for r in ranks], time.monotonic() - start
        shares = [
            min(least, (b - a) / waited) for least, a, b in zip(shares, before, after, strict=True)
        ]
        if max(shares) < 0.02:
            break
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=60)
    assert max(shares) < 0.02, shares


def _cpu_s(process):
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_launcher_that_does_not_fit_the_library_is_refused(make_job):
    """Several ranks that each find themselves alone: exit 3 with the remedy, printed once."""
    job = make_job()
    ended = run_alone(["eval", str(job)], OMPI_COMM_WORLD_SIZE="3", OMPI_COMM_WORLD_RANK="0")
    assert ended.returncode == 3
    assert "each finds itself alone" in ended.stderr
    assert not job.with_suffix(".h5").exists()
    quiet = run_alone(["eval", str(job)], OMPI_COMM_WORLD_SIZE="3", OMPI_COMM_WORLD_RANK="1")
    assert (quiet.returncode, quiet.stderr) == (3, "")


def test_a_reader_follows_a_running_job(make_job):
    """Every surface read while ranks write is consistent: done cells have their values."""
    job = make_job(model=SLOW, grid={"alpha": [-1, 1, 7], "beta": [-1, 1, 7]})
    process = start_run(job)
    seen = []
    while process.poll() is None:
        surface = store.read(job.with_suffix(".h5"))
        assert surface.quantities["train_loss"][surface.done].min() > 0
        seen.append(surface.counts()["done"])
        time.sleep(0.05)
    process.communicate()
    assert process.returncode == 0
    assert seen == sorted(seen)
    assert len(set(seen)) > 3


@pytest.mark.cluster
def test_under_mpich_a_killed_worker_ends_the_job_and_a_resume_completes_it(tmp_path):
    """The launcher says 9; what was finished is kept, and the end has the bytes of one process."""
    environment = serial_environment()
    if environment is None:
        pytest.skip("make setup-serial has not been run")
    grid = {"alpha": [-1, 1, 9], "beta": [-1, 1, 9]}
    reference = write_job(tmp_path / "reference", model=SLOW, grid=grid)
    assert evaluate([reference], QUIET, world=None) == 0
    job = write_job(tmp_path / "job", model=SLOW, grid=grid)
    pids = tmp_path / "pids"
    (tmp_path / "job" / "sitecustomize.py").write_text(
        "import os\n"
        "if 'PMI_RANK' in os.environ:\n"
        f"    open({str(pids)!r} + os.environ['PMI_RANK'], 'w').write(str(os.getpid()))\n"
    )
    binaries = environment / "bin"
    command = [str(binaries / "mpiexec"), "-n", "3", str(binaries / "lsengine"), "eval", str(job)]
    process = subprocess.Popen(
        command,
        env=launcher_environment(PYTHONPATH=str(job.parent)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        wait_for_cells(job.with_suffix(".h5"), process, cells=10)
        os.kill(int(Path(f"{pids}2").read_text()), signal.SIGKILL)
        text = process.communicate(timeout=60)[0]
    finally:
        process.kill()
    assert process.returncode == 9, text
    counts = store.read(job.with_suffix(".h5")).counts()
    assert counts["done"] >= 10
    assert counts["missing"] > 0
    assert evaluate([job], QUIET, world=None) == 0
    assert values(job.with_suffix(".h5")) == values(reference.with_suffix(".h5"))


def test_the_pip_only_environment_gives_the_same_surface(tmp_path):
    """MPICH's wheel with serial h5py: three ranks, gathered by rank 0, the same bytes."""
    environment = serial_environment()
    if environment is None:
        pytest.skip("make setup-serial has not been run")
    here = write_job(tmp_path / "here")
    there = write_job(tmp_path / "there")
    assert evaluate([here], Options(progress="none"), world=None) == 0
    ended = run_ranks(3, ["eval", str(there)], binaries=environment / "bin")
    assert ended.returncode == 0, ended.stderr
    assert "writing=gather" in ended.stderr
    assert values(there.with_suffix(".h5")) == values(here.with_suffix(".h5"))


def test_the_pip_only_environment_stops_cleanly_and_resumes(tmp_path):
    """SIGUSR1 to MPICH's mpiexec: code 75; a resume completes the surface."""
    environment = serial_environment()
    if environment is None:
        pytest.skip("make setup-serial has not been run")
    job = write_job(tmp_path, model=SLOW, grid={"alpha": [-1, 1, 9], "beta": [-1, 1, 9]})
    command = [str(environment / "bin" / "mpiexec"), "-n", "3"]
    process = subprocess.Popen(
        [*command, str(environment / "bin" / "lsengine"), "eval", str(job)],
        env=launcher_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for_cells(job.with_suffix(".h5"), process, cells=4)
    process.send_signal(signal.SIGUSR1)
    text = process.communicate(timeout=30)[0]
    assert process.returncode == 75, text
    assert evaluate([job], Options(progress="none"), world=None) == 0


def test_a_parallel_run_needs_a_parallel_h5py(tmp_path):
    """Asking for parallel writing where h5py is serial: exit 3 and the remedy."""
    environment = serial_environment()
    if environment is None:
        pytest.skip("make setup-serial has not been run")
    job = write_job(tmp_path, writing="parallel")
    ended = run_ranks(2, ["eval", str(job)], binaries=environment / "bin")
    assert ended.returncode == 3
    assert "writing: parallel needs an h5py built with MPI" in ended.stderr


@pytest.mark.cluster
def test_debians_launcher_works_too(tmp_path):
    """The same environment started by Debian's Open MPI: the same bytes."""
    launcher = "/usr/bin/mpirun.openmpi"
    if not Path(launcher).exists():
        pytest.skip("Debian's Open MPI is not installed")
    here, there = write_job(tmp_path / "here"), write_job(tmp_path / "there")
    assert evaluate([here], Options(progress="none"), world=None) == 0
    ended = run_ranks(3, ["eval", str(there)], launcher=[launcher, "--oversubscribe"])
    assert ended.returncode == 0, ended.stderr
    assert values(there.with_suffix(".h5")) == values(here.with_suffix(".h5"))


def test_watchdog_threads_are_not_left_behind(make_job):
    """The lock's heartbeat ends with the run."""
    assert evaluate([make_job()], Options(progress="none"), world=None) == 0
    assert all(thread.name != "lock" for thread in threading.enumerate())
