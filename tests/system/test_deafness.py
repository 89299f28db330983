"""SIGTERM and SIGINT while a command reads its job or imports a library: it ends at once."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest

from tests.support.jobs import write_job
from tests.support.launchers import BIN, launcher_environment

_SLOW = """
import os, time
def slow(*_):
    with open(os.environ["STARTED"] + ".part", "w") as file:
        file.write(str(os.getpid()))
    os.rename(os.environ["STARTED"] + ".part", os.environ["STARTED"])
    time.sleep(120)
"""
_JOB = """
from lsengine.job import documents
documents._content = slow
"""
_TORCH = """
import sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            slow()
sys.meta_path.insert(0, Finder())
"""
COMMANDS = {
    "eval": ["eval"],
    "train": ["train"],
    "status": ["status"],
    "submit": ["submit", "--dry-run"],
    "connect": ["connect"],
    "spectrum": ["spectrum"],
}


def _end(tmp_path, command, slow, number, launcher=()):
    """Send a signal to the process that is slow; return code, seconds and lines of errors."""
    (tmp_path / "sitecustomize.py").write_text(_SLOW + slow)
    job, started = (
        write_job(tmp_path / "job", train={"output": "o", "epochs": 1}),
        tmp_path / "started",
    )
    path = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    process = subprocess.Popen(
        [*launcher, BIN / "lsengine", *COMMANDS[command], job],
        env=launcher_environment(STARTED=str(started), PYTHONPATH=path),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        end = time.monotonic() + 60
        while not started.exists() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        begin = time.monotonic()
        os.kill(int(started.read_text()), number)
        _, errors = process.communicate(timeout=60)
        return process.returncode, time.monotonic() - begin, errors.splitlines()
    finally:
        process.kill()
        process.wait()


TERM, INT = signal.SIGTERM, signal.SIGINT
CASES = [
    *((command, _JOB, TERM) for command in ("eval", "train", "status", "submit", "spectrum")),
    *(("eval", _JOB, INT), ("connect", _JOB, INT), ("status", _JOB, INT)),
    *(("eval", _TORCH, TERM), ("eval", _TORCH, INT), ("train", _TORCH, TERM)),
]


@pytest.mark.parametrize(
    ("command", "slow", "number"),
    CASES,
    ids=[f"{c}-{'job' if s is _JOB else 'torch'}-{n.name}" for c, s, n in CASES],
)
def test_a_signal_ends_a_command_that_has_not_begun(tmp_path, command, slow, number):
    """Code 75 and one line, while a file system or an import takes its time."""
    code, seconds, lines = _end(tmp_path, command, slow, number)
    said = [line for line in lines if "stopped by" in line or "interrupted" in line]
    assert (code, len(said)) == (75, 1), lines
    assert not any("Traceback" in line for line in lines)
    assert seconds < 20


@pytest.mark.parametrize("number", [TERM, INT])
def test_a_signal_to_rank_0_ends_all_ranks(tmp_path, number):
    """The others wait for the job, and leave with the same code."""
    launcher = [BIN / "mpirun", "-n", "2"]
    code, seconds, lines = _end(tmp_path, "eval", _JOB, number, launcher)
    assert code == 75, lines
    assert sum("stopped by" in line for line in lines) == 1
    assert seconds < 30
