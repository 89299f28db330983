"""The set-up: what it promises without making an environment, and the two it has made."""

import configparser
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
SETUP = ROOT / "launch" / "setup.sh"


def _pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


def _requirements() -> list[Requirement]:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = config["options.extras_require"].values()
    lists = [config["options"]["install_requires"], *extras]
    return [Requirement(line) for text in lists for line in text.split("\n") if line]


@pytest.mark.parametrize("requirement", _requirements(), ids=str)
def test_the_pinned_version_lies_in_the_range(requirement):
    """Every dependency is pinned, to a version that setup.cfg allows."""
    assert requirement.specifier.contains(_pins()[canonicalize_name(requirement.name)])


def test_an_installation_has_every_file_beside_the_modules():
    """Each is named as package data, and none is a link, which a copy of the project may lose."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    patterns = config["options.package_data"]["lsengine"].split(", ")
    package = ROOT / "lsengine"
    job_folder = {p for p in package.rglob("*") if p.is_file() and p.suffix not in {".py", ".pyc"}}
    assert job_folder == {path for pattern in patterns for path in package.glob(pattern)}
    assert package / "submit" / "rounds.sh" in job_folder
    assert not [path for path in job_folder if path.is_symlink()]


@pytest.mark.parametrize("arguments", [[], ["--help"], ["--serial"], ["--lean"], ["one", "two"]])
def test_wrong_usage_makes_nothing(arguments, tmp_path):
    """Without exactly one folder the script says how it is used, with exit code 2."""
    done = subprocess.run(
        [SETUP, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (2, "usage: launch/setup.sh [--serial] [--lean] DIR\n")
    assert not [*tmp_path.iterdir()]


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    """A folder that is no environment is refused, and what it holds stays."""
    (tmp_path / "thesis.tex").touch()
    done = subprocess.run(
        [SETUP, "--serial", tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert "name another folder" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_old_python_is_refused(tmp_path):
    """With no Python new enough the script says which one it needs, with exit code 3."""
    for name in ["python3.11", "python3"]:
        (tmp_path / name).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        [SETUP, "--serial", tmp_path / "environment"],
        env=os.environ | {"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert "needs Python 3.11 or newer" in done.stderr


def test_this_environment_is_of_the_kind_its_stamp_names():
    """The main environment's h5py has MPI exactly if the set-up said so."""
    _check_kind(Path(sys.prefix), {"parallel", "serial"})


def test_the_pip_only_environment_is_serial():
    """The second environment has h5py without MPI, and its own launcher and lsengine."""
    if not (prefix := os.environ.get("LSENGINE_SERIAL_ENV")):
        pytest.skip("LSENGINE_SERIAL_ENV names no second environment (`make test` does)")
    _check_kind(Path(prefix), {"serial"})


def _check_kind(prefix: Path, allowed: set[str]) -> None:
    stamp = prefix / "lsengine-setup"
    if not stamp.exists():
        pytest.skip(f"{prefix} was not made by launch/setup.sh")
    kind = re.match(r"\w+", stamp.read_text())[0]
    assert kind in allowed
    code = "from mpi4py import MPI; import h5py; print(h5py.get_config().mpi)"
    # What another MPI has left in this process' environment is none of that environment's.
    foreign = ("OMPI_", "PMI", "PMIX_", "PRTE_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    done = subprocess.run(
        [prefix / "bin" / "python", "-c", code],
        env=clean,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(kind == "parallel")
    assert {"lsengine", "mpiexec"} <= {path.name for path in (prefix / "bin").iterdir()}
