"""The only door to SLURM: its time limits, and submission by sbatch."""

from __future__ import annotations

import re
import shutil
import subprocess

from lsengine.errors import EnvironmentUnfit

_PATIENCE_S = 120.0


def seconds(limit: str) -> int:
    """Return the seconds of a time limit as sbatch reads it.

    ``minutes``, ``minutes:seconds``, ``hours:minutes:seconds``, ``days-hours``,
    ``days-hours:minutes`` or ``days-hours:minutes:seconds``.

    Raises:
        ValueError: If it is none of them.
    """
    days, dash, clock = limit.rpartition("-")
    fields = [int(field) for field in clock.split(":")]
    units = [3600, 60, 1] if dash or len(fields) == 3 else [60, 1]
    if len(fields) > len(units):
        raise ValueError(f"got {limit!r}; expected such as 04:00:00 or 2-00:00:00")
    days_s = int(days) * 86400 if dash else 0
    return days_s + sum(n * u for n, u in zip(fields, units, strict=False))


def submit(script: str, *, after: str | None = None, after_any: bool = False) -> str:
    """Hand the text of a script to sbatch and return the job's number.

    It starts when job ``after`` has ended: with 0, or SLURM cancels it, unless ``after_any``.

    Raises:
        EnvironmentUnfit: If there is no sbatch, or it refuses; with its own words.
    """
    if shutil.which("sbatch") is None:
        raise EnvironmentUnfit(
            "submit: there is no sbatch here; submit from a login node of the cluster, or take "
            "the script of --dry-run there"
        )
    command = ["sbatch", "--parsable"]
    if after:
        kind = "afterany" if after_any else "afterok"
        command += [f"--dependency={kind}:{after}", "--kill-on-invalid-dep=yes"]
    try:
        ended = subprocess.run(
            command, input=script, capture_output=True, text=True, timeout=_PATIENCE_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise EnvironmentUnfit(
            f"submit: sbatch has not answered for {_PATIENCE_S:g} s; squeue shows whether the job "
            "is there"
        ) from None
    number = re.match(r"[0-9]+", ended.stdout.strip())
    if ended.returncode or not number:
        reason = " ".join((ended.stderr or ended.stdout).split())
        raise EnvironmentUnfit(f"submit: sbatch refuses: {reason}")
    return number.group()
