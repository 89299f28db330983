"""The tests on several Pythons: what is said of each, and how it ends."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]

# Stands for a Python, and for that of its environment: knows versions, and counts tests.
_PYTHON = """#!/bin/sh
case "$*" in
    *version_info*) echo 3.98 ;;
    *torch.__version__*) echo 2.0 ;;
    -V) echo Python 3.98.1 ;;
    *pytest\\ -q*) echo "$FIRST passed in 1.00s"; exit "$CODE" ;;
esac
"""
_SETUP = """#!/bin/sh
[ "$*" = "--serial --lean --python python3.98 .venv-3.98" ] || exit 3
mkdir -p .venv-3.98/bin && cp "$(command -v python3.98)" .venv-3.98/bin/python
"""


def _try(folder, *names, tests_end_with):
    (folder / "launch").mkdir()
    shutil.copy(ROOT / "launch" / "pythons.sh", folder / "launch")
    for name, text in (("python3.98", _PYTHON), ("launch/setup.sh", _SETUP)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{folder}:/usr/bin:/bin",
        "FIRST": "7",
        "CODE": str(tests_end_with),
    }
    return subprocess.run(
        [folder / "launch" / "pythons.sh", *names],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_python_has_its_line(tmp_path):
    """One that is not there, or whose tests fail, makes the whole fail; the others are tried."""
    done = _try(tmp_path, "3.99", "3.98", tests_end_with=0)
    assert done.returncode == 1
    last = done.stdout.splitlines()[-2:]
    assert last == ["3.99: failed", "Python 3.98.1, torch 2.0: 7 passed in 1.00s"]
    assert (tmp_path / ".venv-3.98" / "tests.log").read_text() == "7 passed in 1.00s\n"


def test_failed_tests_are_not_passed_over(tmp_path):
    """Pytest's exit code counts, although its output goes through a pipe."""
    done = _try(tmp_path, "3.98", tests_end_with=1)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (1, "3.98: failed")


def test_all_that_is_to_be_run_is_there():
    """The folders and files that the script names."""
    text = (ROOT / "launch" / "pythons.sh").read_text()
    rooms = re.search(r"rooms=\((.*)\)", text)
    files = re.search(r"tests=\(\S+ (.*)\)", text)
    assert rooms is not None
    assert files is not None
    assert all((ROOT / "tests" / room).is_dir() for room in rooms[1].split())
    assert all((ROOT / name).is_file() for name in files[1].split())
