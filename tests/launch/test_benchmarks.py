"""Benchmarks measure nothing in the tests, but they start, and their calls are type-checked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(path.name for path in (ROOT / "benchmarks").glob("bench_*.py"))
# All in one process, as importing torch takes longer than everything else here.
ASK_ALL = """
import runpy, sys
for script in sys.argv[1:]:
    sys.argv = [script, "--help"]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as done:
        assert done.code == 0, script
"""


@pytest.fixture(scope="module")
def helps():
    """Return what every script prints when asked for help, joined."""
    done = subprocess.run(
        [sys.executable, "-c", ASK_ALL, *(str(ROOT / "benchmarks" / name) for name in SCRIPTS)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "benchmarks")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_benchmark_starts_and_can_be_tried_quickly(helps, script):
    """Its imports exist, and its help has ``--quick``."""
    _, found, own = helps.partition(f"usage: {script}")
    assert found
    assert "--quick" in own.partition("usage: ")[0]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_benchmark_is_listed(script):
    """The folder's page says what each one is for."""
    assert f"`{script}`" in (ROOT / "benchmarks" / "README.md").read_text()
