"""Checks of what starts ranks: a launcher has to start two, and SLURM has to answer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lsengine.doctor.checks import Check, from_json, ok, problem, warning

_LIMIT_S, _PING_S = 120.0, 20.0
_PREFIXES = ("OMPI_", "PMIX_", "PMI_", "PRTE_", "HYDRA_", "HYDI_", "MPI_", "MPICH_", "I_MPI_")
_OF_RANKS = ("launcher", "MPI libraries", "ring message", "parallel writing")
# What Open MPI 5 says if a launch that was killed has left a file named for this one's process
# number (openpmix issue 4022).  The start that fails takes the file away.
LEFTOVER = "listener thread failed to start"


def without_launcher(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment for a child that is no rank and does not start MPI."""
    plain = {k: v for k, v in environment.items() if not k.startswith(_PREFIXES)}
    return {**plain, "MPI4PY_RC_INITIALIZE": "0"}


def launcher(folder: Path) -> list[Check]:
    """Start two ranks by the launcher at hand; return their verdicts on each other.

    They write a trial into ``folder``.
    """
    name = "launcher"
    beside = Path(sys.executable).with_name("mpirun")
    program = str(beside) if beside.exists() else shutil.which("mpirun") or shutil.which("mpiexec")
    if program is None:
        remedy = "pip install mpi4py mpich, for more than one process"
        return [warning(name, "no mpirun and no mpiexec is on the PATH", remedy)]
    flags = ["doctor", "--json", "--output", str(folder)]
    environment = {
        **os.environ,
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        "OMPI_MCA_rmaps_base_oversubscribe": "1",
    }
    command = [program, "-n", "2", sys.executable, "-m", "lsengine", *flags]
    try:
        done = _run(command, _LIMIT_S, environment)
        if LEFTOVER in done.stderr:
            done = _run(command, _LIMIT_S, environment)
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = "gives no answer" if isinstance(error, subprocess.TimeoutExpired) else str(error)
        return [problem(name, f"{program} -n 2: {reason}", "try it with a program of its own")]
    try:
        checks = from_json(done.stdout)
    except ValueError:
        wordy = (line.strip() for line in done.stderr.splitlines() if any(map(str.isalpha, line)))
        reason = next(wordy, "failed silently")
        return [problem(name, f"{program} -n 2: {reason}", _remedy(done.stderr))]
    return [
        replace(check, found=f"{program} -n 2: {check.found}") if check.name == name else check
        for check in checks
        if check.name in _OF_RANKS
    ]


def _run(
    command: Sequence[str], limit_s: float, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=env, input="", capture_output=True, text=True, timeout=limit_s, check=False
    )


def _remedy(errors: str) -> str:
    if "root" in errors:
        names = ("OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1")
        return f"do not run as root, or set {' and '.join(names)}"
    if LEFTOVER in errors:
        return "remove what killed launches left: ompi.* in TMPDIR or /tmp, while none runs"
    return "run it by hand to see all it says; without a launcher lsengine works as one process"


def slurm() -> list[Check]:
    """Ask SLURM's controller for a sign of life, where there is SLURM, or a job of it."""
    name, job = "SLURM", os.environ.get("SLURM_JOB_ID")
    program = shutil.which("scontrol")
    if program is None and job is None:
        return []
    inside = f"job {job}, " if job else ""
    if program is None:
        remedy = "put scontrol on the PATH of the job: a run requeues itself by it"
        return [warning(name, f"{inside}no scontrol on the PATH", remedy)]
    try:
        done = _run([program, "ping"], _PING_S)
        last_error = (done.stderr.strip().splitlines() or [""])[-1]
        answer = " ".join((done.stdout.strip() or last_error).split())
        is_up = done.returncode == 0 and " UP" in answer
    except (OSError, subprocess.TimeoutExpired):
        answer, is_up = f"no answer within {_PING_S:g} s", False
    if is_up:
        return [ok(name, f"{inside}{answer}")]
    remedy = "ask whoever runs the cluster; what is submitted waits until it answers"
    make = problem if job else warning
    return [make(name, f"{inside}scontrol ping: {answer or 'fails silently'}", remedy)]
