"""Real launchers with time limits."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from lsengine import store

ROOT = Path(__file__).parents[2]
BIN = Path(sys.prefix) / "bin"


def launcher_environment(**more: str) -> dict[str, str]:
    """Return an environment in which Open MPI runs as root on few cores.

    Each launch has a folder of its own for what it writes beside: Open MPI 5 does not start if
    a launch that was killed has left a file with its process number (openpmix issue 4022), and
    these tests kill many.
    """
    quiet = {
        "TMPDIR": tempfile.mkdtemp(dir=_temporaries()),
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        "OMPI_MCA_rmaps_base_oversubscribe": "1",
        "OMP_NUM_THREADS": "1",
    }
    return {**os.environ, **quiet, **more}


@functools.cache
def _temporaries() -> str:
    folder = tempfile.mkdtemp(prefix="lsengine-tests-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def serial_environment() -> Path | None:
    """Return the folder of the environment made from pip alone, if it is there."""
    folder = os.environ.get("LSENGINE_SERIAL_ENV", str(ROOT / ".venv-serial"))
    return Path(folder) if (Path(folder) / "bin" / "lsengine").exists() else None


def run_ranks(
    ranks: int,
    arguments: Sequence[str],
    *,
    binaries: Path = BIN,
    timeout: float = 120,
    launcher: Sequence[str] = (),
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """Run ``lsengine ARGUMENTS`` under mpirun as a subprocess with a hard time limit."""
    command = [*(launcher or [str(binaries / "mpirun")]), "-n", str(ranks)]
    command += [str(binaries / "lsengine"), *arguments]
    return subprocess.run(
        command,
        env=launcher_environment(**environment),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def run_alone(
    arguments: Sequence[str], *, timeout: float = 120, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run ``lsengine ARGUMENTS`` as one process."""
    return subprocess.run(
        [str(BIN / "lsengine"), *arguments],
        env=launcher_environment(**environment),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def start_run(
    job: Path, surface: Path | None = None, *, ranks: int = 3, launcher: Sequence[str] = ()
) -> subprocess.Popen[str]:
    """Start ``lsengine eval JOB`` under mpirun, and wait until it has finished a cell."""
    command = [str(BIN / "mpirun"), *launcher, "-n", str(ranks)]
    process = subprocess.Popen(
        [*command, str(BIN / "lsengine"), "eval", str(job)],
        env=launcher_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for_cells(surface or job.with_suffix(".h5"), process)
    return process


def wait_for_cells(surface: Path, process: subprocess.Popen[str], cells: int = 1) -> None:
    """Wait until a run has finished so many cells of its surface."""
    end = time.monotonic() + 60
    while not (surface.exists() and store.read(surface).counts()["done"] >= cells):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.02)
