"""Jobs submitted to a real SLURM: launchers, devices, arrays, chains, probes.

Each test waits with a limit; surfaces are compared with an undisturbed run's.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lsengine import store
from tests.support.batch_jobs import MPICH, OPENMPI, QUICK, SLOW, binaries_for, log_of, submit
from tests.support.jobs import values, write_job

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


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(
            {**MPICH, "gpu_binding": "node", "nodes": 1, "ranks": 3},
            id="gpus-per-node",
            marks=pytest.mark.cluster,
        ),
        pytest.param({**MPICH, "gpu_binding": "task", "nodes": 2, "ranks": 4}, id="gpus-per-task"),
        pytest.param({**OPENMPI, "nodes": 1, "ranks": 3}, id="mpirun"),
    ],
)
def submitted(request, cluster, tmp_path_factory):
    """A surface submitted to nodes of two null GPUs, each rank's device, and what SLURM says."""
    folder, launch = tmp_path_factory.mktemp("two words"), request.param
    (folder / "sitecustomize.py").write_text(RECORDER)
    environment = {"PYTHONPATH": str(folder), "RECORD": str(folder)}
    settings = {
        **launch,
        "environment": {**launch["environment"], **environment},
        "gpus_per_node": 2,
        "time": "10",
        "coordinator": "waits",
    }
    if launch["launcher"] == "openmpi":
        settings["launcher_options"] = [*OPENMPI["launcher_options"], "-x", "PYTHONPATH,RECORD"]
    job = write_job(folder, device="auto", launch=settings)
    ended = cluster.wait_for_end(submit(cluster, job, binaries=binaries_for(launch))["eval"], 120)
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("[0-9].json"))]
    return job, launch, found, ended


def test_a_submitted_surface_has_the_bytes_of_a_run_alone(submitted, expected):
    """One node under Open MPI's mpirun, and two under srun with MPICH."""
    job, launch, _, ended = submitted
    assert ended["JobState"] == "COMPLETED", log_of(job)
    assert ended["NumNodes"] == str(launch["nodes"])
    assert "done" in log_of(job)
    assert values(job.with_suffix(".h5")) == expected()


def test_every_worker_takes_a_device_of_its_own(submitted):
    """Two null GPUs a node, as SLURM shows them to the ranks; no two workers choose one.

    ``--gpus-per-node`` shows both to all; ``--gpus-per-task`` one to each; under mpirun all ranks
    have the SLURM_LOCALID of the script, which must not be believed.
    """
    job, launch, found, _ = submitted
    workers = [worker for worker in found if worker["rank"] > 0]
    assert len(workers) == launch["ranks"] - 1, log_of(job)
    devices = [(worker["node"], worker["device"]) for worker in workers]
    assert len(set(devices)) == len(devices), workers
    shown = {len(worker["visible"]) for worker in workers}
    assert shown == ({1} if launch.get("gpu_binding") == "task" else {2}), workers
    if launch["launcher"] == "openmpi":
        assert {worker["local"] for worker in workers} == {"0"}, workers


@pytest.mark.cluster
def test_open_mpi_of_debian_is_started_by_pmix(cluster, tmp_path, expected):
    """Pip's Open MPI 5 is not: with the system's, two ranks by srun have the bytes of one."""
    library = next(Path("/usr/lib").glob("*/libmpi.so.40"), None)
    if library is None or not store.has_mpi():
        pytest.skip("needs Open MPI of Debian's and h5py that was built for it")
    environment = {"OMP_NUM_THREADS": "1", "MPI4PY_LIBMPI": str(library)}
    launch = {"launcher": "srun-pmix", "environment": environment, "ranks": 2, "time": "10"}
    job = write_job(tmp_path, launch=launch)
    ended = cluster.wait_for_end(submit(cluster, job)["eval"], 120)
    assert ended["JobState"] == "COMPLETED", log_of(job)
    assert "srun --mpi=pmix" in log_of(job)
    assert store.read(job.with_suffix(".h5")).attributes["mpi_library"].startswith("Open MPI v4")
    assert values(job.with_suffix(".h5")) == expected()


def test_shards_of_an_array_are_merged_by_the_job_after_it(cluster, tmp_path, expected):
    """Three processes without MPI, and a job that waits for them: the same bytes."""
    launch = {"time": "10", "environment": {"OMP_NUM_THREADS": "1"}}
    job = write_job(tmp_path, model=QUICK, launch=launch)  # evaluated cell by cell
    numbers = submit(cluster, job, "--array", "3")
    assert list(numbers) == ["eval", "merge"]
    ended = cluster.wait_for_end(numbers["merge"], 180)
    assert ended["JobState"] == "COMPLETED", log_of(job) + log_of(job, "merge")
    assert "28 of 28 cells done, from 3 files" in log_of(job, "merge")
    assert values(job.with_suffix(".h5")) == expected(model=QUICK)


@pytest.mark.cluster
def test_a_chain_trains_evaluates_and_draws(cluster, tmp_path):
    """Three jobs, each after the one before: checkpoint, surface, picture."""
    job = write_job(
        tmp_path,
        model={"arch": "testnets:mlp", "checkpoint": "run/epoch_002.pt"},
        train={"output": "run", "epochs": 2, "batch_size": 16},
        launch={**OPENMPI, "ranks": 2, "time": "10"},
    )
    numbers = submit(cluster, job, "--chain")
    assert list(numbers) == ["train", "eval", "render"]
    ended = cluster.wait_for_end(numbers["render"], 240)
    assert ended["JobState"] == "COMPLETED", [log_of(job, step) for step in numbers]
    assert (tmp_path / "job-filled.png").stat().st_size > 1000
    assert store.read(tmp_path / "job.h5").counts()["missing"] == 0


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
    numbers = submit(cluster, job, "--probe", "2")
    assert list(numbers) == ["probe", "eval"]
    found = tuple(cluster.wait_for_end(number, 120)["JobState"] for number in numbers.values())
    assert found == ends, log_of(job, "probe") + log_of(job)
    assert said in log_of(job, "probe")
