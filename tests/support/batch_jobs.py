"""Batch jobs in tests: what they ask for, how they are submitted, what they have said."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

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


def binaries_for(launch):
    """Return the environment whose MPI fits a launcher."""
    if launch["launcher"].startswith("openmpi"):
        return BIN
    environment = serial_environment()
    if environment is None:
        pytest.skip("make setup-serial has not been run")
    return environment / "bin"


def submit(cluster: Testbed, job: Path, *options: str, binaries: Path = BIN) -> dict[str, str]:
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


def log_of(job: Path, step: str = "eval") -> str:
    """Return what all rounds of a job have said."""
    return "\n".join(p.read_text() for p in sorted(job.parent.glob(f"{job.stem}-{step}-*.log")))
