"""Fixtures of broken jobs and files, which commands must refuse."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from lsengine import store
from lsengine.cli import main
from lsengine.surface.grid import Grid
from tests.support.jobs import write_job
from tests.support.refusals import USER_CODE, check_refusal, content_of


@pytest.fixture(autouse=True)
def _undisturbed(monkeypatch):
    """Put signal handlers back, and leave no compiled modules beside jobs."""
    numbers = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def job(tmp_path):
    """Write a small complete job, with some user's code beside it; changes replace sections."""
    (tmp_path / "mine.py").write_text(USER_CODE)
    return lambda name="job", **changes: write_job(tmp_path, name, **changes)


@pytest.fixture
def surface(tmp_path):
    """A finished surface of a small plane, made without evaluating anything."""
    path = tmp_path / "plane.h5"
    shutil.copy(_plane(tmp_path.parent), path)
    return path


def _plane(folder):
    path = folder / "plane-template.h5"
    if not path.exists():
        grid = Grid({"beta": np.arange(3.0), "alpha": np.arange(4.0)})
        store.create(
            path, store.Layout(grid=grid, quantities=["train_loss"], attributes={"name": "plane"})
        )
        cells = list(range(12))
        times = [float(c) for c in cells]
        values = {"train_loss": times}
        writer = store.Writer(path)
        writer.write(
            store.CellResults(cells=cells, values=values, wall_s=[0.1] * 12, finished=times)
        )
        writer.close()
    return path


@pytest.fixture
def refused(tmp_path, capfd):
    """Run a command that must fail, and check all that every refusal has in common."""

    def run(*arguments, code=2, says=()):
        before = content_of(tmp_path)
        capfd.readouterr()
        try:
            found = main([str(a) for a in arguments])
        except SystemExit as ended:
            found = ended.code
        output, error = capfd.readouterr()
        check_refusal(found, output, error, code, says)
        assert content_of(tmp_path) == before
        return error

    return run


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)
