"""File systems that go away below a run, and come back."""

from __future__ import annotations

import contextlib
import re
import subprocess

import pytest

from lsengine import store
from lsengine.engine import Options, evaluate
from tests.support.jobs import values, write_job
from tests.support.launchers import start_run

SLOW = {"arch": "testnets:Slow", "args": {"seconds": 0.02}, "checkpoint": "centre.pt"}
GRID = {"alpha": [-1, 1, 9], "beta": [-1, 1, 6]}


@pytest.fixture
def volume(tmp_path):
    """Yield a folder, and functions that take it away as a file system goes, and bring it back."""
    lower, folder = tmp_path / "lower", tmp_path / "volume"
    lower.mkdir()
    folder.mkdir()

    def bring():
        command = ["mount", "--bind", str(lower), str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")

    def take():
        subprocess.run(["umount", "--lazy", str(folder)], check=True)

    bring()
    yield folder, take, bring
    with contextlib.suppress(subprocess.CalledProcessError):  # a test that failed has taken it
        take()


@pytest.mark.cluster
@pytest.mark.parametrize("writing", ["parallel", "gather"])
def test_a_file_system_that_goes_is_named_and_costs_nothing(volume, tmp_path, writing):
    """The run ends with 3 and one message; when it is back, the same command ends with the bytes.

    Files that are open when it goes can still be written to: only their path tells.
    """
    if writing == "parallel" and not store.has_mpi():
        pytest.skip("this environment's h5py has no MPI")
    folder, take, bring = volume
    changes = {"model": SLOW, "grid": GRID, "writing": writing}
    alone = write_job(tmp_path, "alone", **changes)
    assert evaluate([alone], Options(progress="none"), world=None) == 0
    surface = folder / "a.h5"
    job = write_job(tmp_path, output=str(surface), **changes)
    process = start_run(job, surface)
    take()
    text = process.communicate(timeout=60)[0]
    assert process.returncode == 3, text
    assert len(re.findall(f"{surface}: the file that this run has .* is not there", text)) == 1
    assert "Traceback" not in text
    bring()
    assert store.read(surface).done.any()
    assert evaluate([job], Options(progress="none"), world=None) == 0
    assert values(surface) == values(alone.with_suffix(".h5"))
