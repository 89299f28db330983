"""The doctor on real launchers and file systems, sound ones and broken ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lsengine import store
from tests.support.doctors import examine, verdicts
from tests.support.launchers import (
    BIN,
    launcher_environment,
    run_alone,
    serial_environment,
)

DEBIANS = Path("/usr/bin/mpirun.openmpi")


def test_nothing_loads_hdf5_before_the_ranks_have_joined():
    """HDF5 may load another MPI library than the launcher's, and two of them do not get on."""
    program = "import sys, lsengine.doctor; sys.exit('h5py' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_alone_it_tries_the_launcher_at_hand(tmp_path):
    """One process starts two ranks of its own, kills a writer, and leaves nothing behind."""
    done = run_alone(["doctor", "--json", "--output", str(tmp_path / "later" / "made")])
    found = verdicts(done)
    assert done.returncode == 0, done.stdout
    assert "mpirun -n 2: 2 ranks on 1 host" in found["launcher"]["found"]
    assert found["ring message"]["verdict"] == "ok"
    assert found["lock"]["verdict"] == found["killed writer"]["verdict"] == "ok"
    assert f"{tmp_path}: " in found["disk"]["found"]
    assert not [*tmp_path.iterdir()]


def test_a_launcher_of_another_mpi_is_named(tmp_path):
    """Ranks that do not find each other are one problem, told once, with exit code 3."""
    serial = serial_environment()
    if serial is None or not store.has_mpi():
        pytest.skip("needs environments with two kinds of MPI")
    done = examine(2, tmp_path, launcher=[str(serial / "bin" / "mpiexec")])
    found = verdicts(done)
    assert done.returncode == 3
    assert found["launcher"]["verdict"] == "problem"
    assert "started 2 ranks, but each finds itself alone" in found["launcher"]["found"]
    assert "mpirun of that library" in found["launcher"]["remedy"]


@pytest.mark.cluster
def test_the_launcher_of_debian_finds_one_mpi_in_every_rank(tmp_path):
    """MPI is joined before HDF5 is loaded: else h5py brings the system's library along."""
    if not DEBIANS.exists() or not store.has_mpi():
        pytest.skip("no Open MPI of Debian's")
    done = examine(2, tmp_path, launcher=[str(DEBIANS)])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "MPI libraries" not in verdicts(done)


@pytest.mark.cluster
def test_hdf5_first_makes_two_mpi_libraries_which_is_a_problem(tmp_path):
    """The check above can fail: with h5py loaded first, Debian's launcher gives two."""
    if not DEBIANS.exists() or not (BIN / "prterun").exists():
        pytest.skip("needs Open MPI of Debian's and of pip's")
    program = (
        "import h5py, pathlib, sys; from lsengine import doctor, ranks;"
        f"code = doctor.run(pathlib.Path({str(tmp_path)!r}), json=True); sys.exit(code)"
    )
    done = subprocess.run(
        [str(DEBIANS), "-n", "2", sys.executable, "-c", program],
        env=launcher_environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 3
    assert "has loaded 2: " in verdicts(done)["MPI libraries"]["found"]


@pytest.fixture
def mounted(tmp_path):
    """Mount a small file system in memory; give a function that does it."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a file system")
    folder = tmp_path / "mounted"
    folder.mkdir()

    def mount(options):
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no file systems can be mounted: {done.stderr.strip()}")
        return folder

    yield mount
    subprocess.run(["umount", str(folder)], capture_output=True, check=False)


def test_a_full_disk_is_a_problem(mounted):
    """The lock is made, the file is not: exit code 3, with what to do."""
    done = examine(2, mounted("size=64k"))
    found = verdicts(done)
    assert done.returncode == 3
    assert found["writing"]["verdict"] == "problem"
    assert "No space left on device" in found["writing"]["found"]
    assert "--output" in found["writing"]["remedy"]
    assert found["lock"]["verdict"] == "ok"


@pytest.mark.cluster
def test_a_folder_for_reading_only_is_a_problem(mounted):
    """No lock can be made, so nothing else is tried there; the other checks go on."""
    done = run_alone(["doctor", "--json", "--output", str(mounted("size=1m,ro"))])
    found = verdicts(done)
    assert done.returncode == 3
    assert found["lock"]["verdict"] == "problem"
    assert "Read-only file system" in found["lock"]["found"]
    assert "killed writer" not in found
    assert found["clock"]["verdict"] == "ok"
