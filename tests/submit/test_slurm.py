"""SLURM's times, and what is done where there is no SLURM."""

from __future__ import annotations

import os

import pytest

from lsengine.cli import main
from lsengine.errors import EnvironmentUnfit
from lsengine.submit import slurm


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30", 1800),
        ("30:15", 1815),
        ("04:00:00", 14400),
        ("1-0", 86400),
        ("1-12:30", 131400),
        ("2-00:00:01", 172801),
    ],
)
def test_time_limits_are_read_as_sbatch_reads_them(text, expected):
    """All six forms of its manual."""
    assert slurm.seconds(text) == expected


def test_without_sbatch_the_script_can_still_be_had(make_job, monkeypatch, tmp_path, capsys):
    """Exit code 3, and what to do; --dry-run works anywhere."""
    job = make_job()
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    assert main(["submit", str(job), "--dry-run"]) == 0
    capsys.readouterr()
    assert main(["submit", str(job)]) == EnvironmentUnfit.exit_code
    assert "--dry-run" in capsys.readouterr().err
