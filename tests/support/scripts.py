"""Batch scripts in tests: how they are made, read and checked."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from lsengine import submit
from lsengine.submit import SubmitOptions
from lsengine.submit import site as sites


def scripts_of(job, **options):
    """Return the scripts of a job's steps, as a rule without a probe."""
    options.setdefault("probe", 0)
    binaries = Path("/opt/ls engine/bin")
    ((_, steps),) = submit.plan([job], SubmitOptions(binaries=binaries, **options))
    return [step.text for step in steps]


def sbatch_options(text):
    """Return what a script asks of SLURM."""
    return [line.removeprefix("#SBATCH ") for line in text.splitlines() if "#SBATCH" in line]


def check_script(text, folder):
    """Have bash, and shellcheck where it is installed, read a script."""
    path = folder / "script.sh"
    path.write_text(text)
    subprocess.run(["bash", "-n", str(path)], check=True, timeout=60)
    if checker := shutil.which("shellcheck"):
        ended = subprocess.run(
            [checker, "--severity=warning", "--exclude=SC1090,SC2054", str(path)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stdout


def job_and_launch(path, cells):
    """Return the arguments of `estimate.of_probe`."""
    from lsengine import job as jobs

    job = jobs.load(path, command="eval")
    return job, cells, sites.launch_of(job, sites.read(None))
