"""The doctor as ranks of a real SLURM job."""

from __future__ import annotations

import json

import pytest

from tests.support.launchers import serial_environment


@pytest.mark.cluster
def test_ranks_of_a_job_are_checked_and_slurm_answers(cluster, tmp_path):
    """Four ranks on two nodes by srun find each other, and the controller says that it is up."""
    environment = serial_environment()
    if environment is None:
        pytest.skip("make setup-serial has not been run")
    program = [str(environment / "bin" / "lsengine"), "doctor", "--json", "--output", str(tmp_path)]
    told = cluster.call(
        *("srun", "--immediate=60", "--mpi=pmi2", "--nodes=2", "--ntasks=4", *program),
        timeout=150,
        OMP_NUM_THREADS="1",
    )
    found = {check["name"]: check for check in json.loads(told)}
    assert found["launcher"]["found"].startswith("4 ranks on 1 host")  # its nodes are daemons
    assert found["ring message"]["found"] == "passed all 4 ranks in order"
    assert found["SLURM"]["verdict"] == "ok"
    assert found["SLURM"]["found"].startswith("job ")
    assert " UP" in found["SLURM"]["found"]


@pytest.mark.cluster
def test_tasks_that_srun_does_not_join_are_a_problem(cluster, tmp_path):
    """Without an MPI plugin each task finds itself alone: told once, with exit code 3."""
    environment = serial_environment()
    if environment is None:
        pytest.skip("make setup-serial has not been run")
    program = f"{environment}/bin/lsengine doctor --json --output {tmp_path}"
    told = cluster.call(
        *("sh", "-c", f"srun --immediate=60 --mpi=none --ntasks=2 {program}; echo code=$?"),
        timeout=150,
        OMP_NUM_THREADS="1",
    )
    checks, _, code = told.rpartition("code=")
    found = {check["name"]: check for check in json.loads(checks)}
    assert int(code) == 3
    assert found["launcher"]["verdict"] == "problem"
    assert "started 2 ranks, but each finds itself alone" in found["launcher"]["found"]
