"""Surfaces on a real SLURM: submitted, stopped by the time limit, cancelled, split, chained.

Each test waits with a limit; all of them check the bytes against an undisturbed run's.
"""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest

from lsengine import store
from lsengine.engine import Options, evaluate
from tests.support.jobs import values, write_job
from tests.support.launchers import BIN, serial_environment
from tests.support.testbed import Testbed

SLOW = {"arch": "testnets:Slow", "args": {"seconds": 0.02}, "checkpoint": "centre.pt"}
QUICK = {**SLOW, "args": {"seconds": 0.0}}  # the same network in less time
GRID = {"alpha": [-1, 1, 9], "beta": [-1, 1, 6]}
OPENMPI = {
    "launcher": "openmpi",
    "launcher_options": ["--bind-to", "none", "--map-by", ":oversubscribe"],
    "environment": {
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "OMP_NUM_THREADS": "1",
    },
}
MPICH = {"launcher": "srun-pmi2", "environment": {"OMP_NUM_THREADS": "1"}}
HYDRA = {"launcher": "mpich", "environment": {"OMP_NUM_THREADS": "1"}}


def _binaries(launch):
    """Return the environment whose MPI fits a launcher."""
    if launch["launcher"].startswith("openmpi"):
        return BIN
    environment = serial_environment()
    if environment is None:
        pytest.skip("make setup-serial has not been run")
    return environment / "bin"


def _submit(cluster: Testbed, job: Path, *options: str, binaries: Path = BIN) -> dict[str, str]:
    """Submit a job, as a rule without probing it; return SLURM's number of each step."""
    if "--probe" not in options:
        options += ("--probe", "0")
    ended = subprocess.run(
        [str(binaries / "lsengine"), "submit", str(job), *options],
        env=cluster.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    lines = [line.split(maxsplit=2) for line in ended.stdout.splitlines()]
    return {step: number for number, step, _ in lines}


def _log(job: Path, step: str = "eval") -> str:
    return "\n".join(p.read_text() for p in sorted(job.parent.glob(f"{job.stem}-{step}-*.log")))


@pytest.fixture
def expected(tmp_path_factory):
    """Return the values of a job's surface from an undisturbed run in one process."""

    def undisturbed(**changes):
        job = write_job(tmp_path_factory.mktemp("undisturbed"), **changes)
        assert evaluate([job], Options(progress="none"), world=None) == 0
        return values(job.with_suffix(".h5"))

    return undisturbed


def test_submitted_surfaces_have_the_bytes_of_a_run_alone(cluster, tmp_path, expected):
    """One node under Open MPI's mpirun, and two under srun with MPICH, at the same time."""
    launches = [
        {**OPENMPI, "nodes": 1, "ranks": 2, "time": "10"},
        {**MPICH, "nodes": 2, "ranks": 2, "time": "10"},
    ]
    jobs = [write_job(tmp_path / f"{n} jobs", launch=launch) for n, launch in enumerate(launches)]
    numbers = [
        _submit(cluster, job, binaries=_binaries(launch))["eval"]
        for job, launch in zip(jobs, launches, strict=True)
    ]
    for number, job, launch in zip(numbers, jobs, launches, strict=True):
        ended = cluster.wait_for_end(number, 120)
        assert ended["JobState"] == "COMPLETED", _log(job)
        assert ended["NumNodes"] == str(launch["nodes"])
        assert "done" in _log(job)
        assert values(job.with_suffix(".h5")) == expected()


@pytest.mark.cluster
def test_open_mpi_of_debian_is_started_by_pmix(cluster, tmp_path, expected):
    """Pip's Open MPI 5 is not: with the system's, two ranks by srun have the bytes of one."""
    library = next(Path("/usr/lib").glob("*/libmpi.so.40"), None)
    if library is None or not store.has_mpi():
        pytest.skip("needs Open MPI of Debian's and h5py that was built for it")
    environment = {"OMP_NUM_THREADS": "1", "MPI4PY_LIBMPI": str(library)}
    launch = {"launcher": "srun-pmix", "environment": environment, "ranks": 2, "time": "10"}
    job = write_job(tmp_path, launch=launch)
    ended = cluster.wait_for_end(_submit(cluster, job)["eval"], 120)
    assert ended["JobState"] == "COMPLETED", _log(job)
    assert "srun --mpi=pmix" in _log(job)
    assert store.read(job.with_suffix(".h5")).attributes["mpi_library"].startswith("Open MPI v4")
    assert values(job.with_suffix(".h5")) == expected()


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
    number = _submit(cluster, job, binaries=_binaries(launch))["eval"]
    ended = cluster.wait_for_end(number, 300)
    log = _log(job)
    assert ended["JobState"] == "COMPLETED", log
    assert int(ended["Restarts"]) >= 1, log
    assert "the time limit is near" in log, log
    assert "ended with 75" in log, log
    assert log.count("back into the queue") == int(ended["Restarts"])
    assert values(job.with_suffix(".h5")) == expected(model=QUICK, grid=GRID)


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
    number = _submit(cluster, job)["eval"]
    end = time.monotonic() + 90
    while not (surface.exists() and store.read(surface).done.any()):
        assert time.monotonic() < end, _log(job)
        time.sleep(0.1)
    cluster.call("scancel", number)
    assert cluster.wait_for_end(number, 60)["JobState"] == "CANCELLED"
    assert "back into the queue" not in _log(job)
    counts = store.read(surface).counts()
    assert counts["done"] > 0
    assert counts["missing"] > 0
    assert evaluate([job], Options(progress="none"), world=None) == 0
    assert values(surface) == expected(model=QUICK, grid=grid)


def test_shards_of_an_array_are_merged_by_the_job_after_it(cluster, tmp_path, expected):
    """Three processes without MPI, and a job that waits for them: the same bytes."""
    launch = {"time": "10", "environment": {"OMP_NUM_THREADS": "1"}}
    job = write_job(tmp_path, model=QUICK, launch=launch)  # evaluated cell by cell
    numbers = _submit(cluster, job, "--array", "3")
    assert list(numbers) == ["eval", "merge"]
    ended = cluster.wait_for_end(numbers["merge"], 180)
    assert ended["JobState"] == "COMPLETED", _log(job) + _log(job, "merge")
    assert "28 of 28 cells done, from 3 files" in _log(job, "merge")
    assert values(job.with_suffix(".h5")) == expected(model=QUICK)


@pytest.mark.cluster
def test_a_job_that_bears_no_fruit_gives_up(cluster, tmp_path):
    """Cells longer than a round: after two fruitless rounds the job is not put back."""
    job = write_job(
        tmp_path,
        model={**SLOW, "args": {"seconds": 5.0}},
        launch={**OPENMPI, "ranks": 2, "time": "1", "signal_s": 40, "max_fruitless": 2},
    )
    ended = cluster.wait_for_end(_submit(cluster, job)["eval"], 240)
    assert ended["JobState"] == "FAILED"
    assert ended["ExitCode"] == "75:0"
    assert ended["Restarts"] == "1"
    assert "giving up: 2 round(s) in a row have finished nothing new" in _log(job)


GPU_NODE = """
from dataclasses import replace

from lsengine import devices
from lsengine.submit import estimate

measured = estimate._cost
estimate._cost = lambda *what, **how: replace(measured(*what, **how), device="cuda, made up")
devices.visible_count = lambda _: 1
"""


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("seconds", "ends", "said"),
    [
        (0.0, ("COMPLETED", "COMPLETED"), "28 cells are"),
        (3.0, ("FAILED", "CANCELLED"), "takes more than 10 s, but a round has only 10 s"),
    ],
)
def test_a_job_with_a_gpu_probes_before_the_surface(cluster, tmp_path, seconds, ends, said):
    """None is here, so its log has the estimate; if a cell takes too long the surface never starts.

    What the job's node has is made up, after the manner of one with a GPU.
    """
    (tmp_path / "sitecustomize.py").write_text(GPU_NODE)
    launch = {
        "gpus_per_node": 1,
        "time": "1",
        "signal_s": 50,
        "environment": {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path)},
    }
    job = write_job(tmp_path, model={**SLOW, "args": {"seconds": seconds}}, launch=launch)
    numbers = _submit(cluster, job, "--probe", "2")
    assert list(numbers) == ["probe", "eval"]
    found = tuple(cluster.wait_for_end(number, 120)["JobState"] for number in numbers.values())
    assert found == ends, _log(job, "probe") + _log(job)
    assert said in _log(job, "probe")


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
    ended = cluster.wait_for_end(_submit(cluster, job)["eval"], 180)
    log = _log(job)
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", restarts), log
    assert ("ended with 137" in log) == (restarts == "1"), log
    assert values(job.with_suffix(".h5")) == expected(model=QUICK, grid=GRID)


@pytest.mark.cluster
def test_a_wrong_job_is_not_put_back(cluster, tmp_path):
    """Another job's file: exit 4, said, and no second round; what depends on it is cancelled."""
    job = write_job(tmp_path, launch={**OPENMPI, "ranks": 2, "time": "10"})
    assert evaluate([job], Options(progress="none"), world=None) == 0
    write_job(tmp_path, seed=7, launch={**OPENMPI, "ranks": 2, "time": "10"})
    number = _submit(cluster, job)["eval"]
    after = cluster.call(
        *("sbatch", "--parsable", f"--dependency=afterok:{number}", "--kill-on-invalid-dep=yes"),
        *("--output=/dev/null", "--wrap=true"),
    ).strip()
    ended = cluster.wait_for_end(number, 120)
    assert (ended["ExitCode"], ended["Restarts"]) == ("4:0", "0"), _log(job)
    assert "another round would not help" in _log(job)
    assert cluster.wait_for_end(after, 60)["JobState"] == "CANCELLED"


@pytest.mark.cluster
def test_a_chain_trains_evaluates_and_draws(cluster, tmp_path):
    """Three jobs, each after the one before: checkpoint, surface, picture."""
    job = write_job(
        tmp_path,
        model={"arch": "testnets:mlp", "checkpoint": "run/epoch_002.pt"},
        train={"output": "run", "epochs": 2, "batch_size": 16},
        launch={**OPENMPI, "ranks": 2, "time": "10"},
    )
    numbers = _submit(cluster, job, "--chain")
    assert list(numbers) == ["train", "eval", "render"]
    ended = cluster.wait_for_end(numbers["render"], 240)
    assert ended["JobState"] == "COMPLETED", [_log(job, step) for step in numbers]
    assert (tmp_path / "job-filled.png").stat().st_size > 1000
    assert store.read(tmp_path / "job.h5").counts()["missing"] == 0


RECORDER = """
import json
import os
from unittest import mock

import torch
from lsengine import devices

visible = [card for card in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if card]
cards = {"is_available": lambda: bool(visible), "device_count": lambda: len(visible)}
choose = devices.device_of

def device_of(kind, slot):
    # What lsengine chooses where torch finds the cards that SLURM shows; cells stay on the CPU.
    with mock.patch.multiple(torch.cuda, **cards):
        device = choose(kind, slot)
    rank = os.environ.get("OMPI_COMM_WORLD_RANK") or os.environ.get("PMI_RANK")
    found = {
        "rank": int(rank),
        "node": os.environ.get("SLURMD_NODENAME"),
        "local": os.environ.get("SLURM_LOCALID"),
        "visible": visible,
        "device": visible[device.index],
    }
    with open(os.path.join(os.environ["RECORD"], f"{rank}.json"), "w") as file:
        json.dump(found, file)
    return torch.device("cpu")

devices.device_of = device_of
"""


@pytest.mark.parametrize(
    ("launch", "nodes", "ranks"),
    [
        pytest.param(
            {**MPICH, "gpu_binding": "node"}, 1, 3, id="gpus-per-node", marks=pytest.mark.cluster
        ),
        pytest.param({**MPICH, "gpu_binding": "task"}, 2, 4, id="gpus-per-task"),
        pytest.param(OPENMPI, 1, 3, id="mpirun"),
    ],
)
def test_every_worker_takes_a_device_of_its_own(cluster, tmp_path, launch, nodes, ranks):
    """Two null GPUs a node, as SLURM shows them to the ranks; no two workers choose one.

    ``--gpus-per-node`` shows both to all; ``--gpus-per-task`` one to each; under mpirun all ranks
    have the SLURM_LOCALID of the script, which must not be believed.
    """
    binaries = _binaries(launch)
    (tmp_path / "sitecustomize.py").write_text(RECORDER)
    environment = {"PYTHONPATH": str(tmp_path), "RECORD": str(tmp_path)}
    settings = {
        **launch,
        "environment": {**launch["environment"], **environment},
        "nodes": nodes,
        "ranks": ranks,
        "gpus_per_node": 2,
        "time": "10",
        "coordinator": "waits",
    }
    if launch is OPENMPI:
        settings["launcher_options"] = [*OPENMPI["launcher_options"], "-x", "PYTHONPATH,RECORD"]
    grid = {"alpha": [-1, 1, 2], "beta": [-1, 1, 2]}
    job = write_job(tmp_path, grid=grid, device="auto", launch=settings)
    number = _submit(cluster, job, "--probe", "0", binaries=binaries)["eval"]
    assert cluster.wait_for_end(number, 120)["JobState"] == "COMPLETED", _log(job)
    workers = [
        found
        for path in sorted(tmp_path.glob("[0-9].json"))
        if (found := json.loads(path.read_text()))["rank"] > 0
    ]
    assert len(workers) == ranks - 1
    devices = [(worker["node"], worker["device"]) for worker in workers]
    assert len(set(devices)) == len(devices), workers
    shown = {len(worker["visible"]) for worker in workers}
    assert shown == ({1} if launch.get("gpu_binding") == "task" else {2}), workers
    if launch is OPENMPI:
        assert {worker["local"] for worker in workers} == {"0"}, workers
