"""Launchers that the doctor starts itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lsengine.doctor import launcher
from tests.support.launchers import (
    BIN,
    launcher_environment,
)

_PID_MAX = Path("/proc/sys/kernel/pid_max")


def test_a_start_that_met_a_leftover_is_tried_again(tmp_path, monkeypatch):
    """A launcher that fails once on what a killed launch left is no problem; twice is, named."""
    said = "The PMIx server's listener thread failed to start. We cannot"
    fine = json.dumps([{"name": "launcher", "verdict": "ok", "found": "2 ranks", "remedy": ""}])
    mpirun, met = tmp_path / "mpirun", tmp_path / "met"
    mpirun.write_text(
        f"""#!/bin/sh
        if [ -e {met} ]; then echo '{fine}'; exit; fi
        touch {met}; echo "{said}" >&2; exit 1"""
    )
    mpirun.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    (found,) = launcher.launcher(tmp_path)
    assert (found.verdict, found.found) == ("ok", f"{mpirun} -n 2: 2 ranks")
    mpirun.write_text(f"""#!/bin/sh\necho "{said}" >&2; exit 1""")
    (found,) = launcher.launcher(tmp_path)
    assert found.verdict == "problem"
    assert said in found.found
    assert "ompi.* in TMPDIR" in found.remedy


def test_open_mpi_meets_leftovers_as_the_doctor_knows_them(tmp_path):
    """Open MPI 5 does not start where a file has its process number, and takes it away."""
    environment = launcher_environment()
    command = [str(BIN / "mpirun"), "-n", "1", "true"]
    if (
        b"Open MPI) 5"
        not in subprocess.run([*command[:1], "--version"], capture_output=True).stdout
    ):
        pytest.skip("not Open MPI 5")
    host, temporaries = os.uname().nodename, Path(environment["TMPDIR"])
    with subprocess.Popen(["true"]) as process:
        numbers = {1 + (process.pid + more) % int(_PID_MAX.read_text()) for more in range(1000)}
    for number in numbers:  # one of them will be the launcher's
        (temporaries / f"ompi.{number}").mkdir()
        (temporaries / f"ompi.{number}" / f"pmix.{host}.tool.{number}").touch()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode
    assert launcher.LEFTOVER in done.stderr
    assert len([*temporaries.glob("ompi.*")]) == len(numbers) - 1
