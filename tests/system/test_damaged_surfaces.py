"""A surface over which HDF5 crashes: every rank says so and ends, and no batch job is put back."""

from __future__ import annotations

import subprocess

import pytest

from lsengine import submit
from lsengine.engine import Options, evaluate
from lsengine.submit import SubmitOptions
from tests.support.batch_jobs import OPENMPI
from tests.support.jobs import write_job
from tests.support.launchers import BIN, launcher_environment, run_alone, run_ranks


def damage(surface):
    """Change one bit: the size of the type of an attribute; HDF5 1.10 crashes as it reads it."""
    content = bytearray(surface.read_bytes())
    name = content.index(b"checkpoint_sha256\0")
    content[name - 3] ^= 8
    surface.write_bytes(content)


@pytest.fixture
def damaged(tmp_path):
    """A job, and its surface with one wrong bit."""
    launch = {**OPENMPI, "ranks": 3}
    job = write_job(tmp_path, launch=launch)
    assert evaluate([job], Options(progress="none"), world=None) == 0
    damage(job.with_suffix(".h5"))
    return job


@pytest.mark.parametrize("command", ["status", "compare", "render"])
def test_a_crash_of_hdf5_is_a_damaged_file(damaged, command):
    """One message and exit 4, where the process ended with a signal."""
    surface = damaged.with_suffix(".h5")
    ended = run_alone([command, str(surface)])
    assert (ended.returncode, ended.stdout) == (4, "")
    assert f"{surface}: damaged: " in ended.stderr
    assert "Traceback" not in ended.stderr


def test_all_ranks_end_with_the_code_of_a_damaged_file(damaged):
    """No rank is killed, so the launcher has the code that a batch job needs."""
    before = damaged.with_suffix(".h5").read_bytes()
    ended = run_ranks(3, ["eval", str(damaged), "--progress", "lines"])
    assert ended.returncode == 4, ended.stderr
    assert ended.stderr.count("damaged: ") == 1
    assert "Traceback" not in ended.stderr
    assert damaged.with_suffix(".h5").read_bytes() == before


def test_a_batch_job_with_a_damaged_file_is_not_put_back(damaged, tmp_path):
    """The script sees that another round would not help."""
    stub = tmp_path / "stubs" / "scontrol"
    stub.parent.mkdir()
    stub.write_text(f'#!/bin/bash\necho "$*" >>{tmp_path}/told\n')
    stub.chmod(0o755)
    ((_, (step,)),) = submit.plan([damaged], SubmitOptions(binaries=BIN, probe=0))
    path = f"{stub.parent}:/usr/bin:/bin"
    ended = subprocess.run(
        ["bash", "-c", step.text], env=launcher_environment(SLURM_JOB_ID="7", PATH=path),
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ended.returncode == 4, ended.stdout + ended.stderr
    assert "ended with 4: the file belongs to another job, is locked or damaged" in ended.stdout
    assert "requeue" not in (tmp_path / "told").read_text()
