"""Following a run from other processes while it writes."""

from __future__ import annotations

import re
import signal
import subprocess

import numpy as np
import pytest
from PIL import Image

from lsengine import render, store
from tests.support.jobs import write_job
from tests.support.launchers import BIN, launcher_environment

SLOW = {"arch": "testnets:Slow", "args": {"seconds": 0.05}, "checkpoint": "centre.pt"}
GRID = {"alpha": [-1, 1, 11], "beta": [-1, 1, 11]}


def start(*arguments: object, ranks: int = 0) -> subprocess.Popen[str]:
    """Start ``lsengine ARGUMENTS``, under mpirun if there are ranks."""
    launcher = [str(BIN / "mpirun"), "-n", str(ranks)] if ranks else []
    return subprocess.Popen(
        [*launcher, str(BIN / "lsengine"), *map(str, arguments)],
        env=launcher_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> None:
    """End a process if it runs, and close its pipes."""
    process.kill()
    process.communicate()


def wait_for(process: subprocess.Popen[str], pattern: str) -> str:
    """Read lines of a process until one matches; return them all."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if re.search(pattern, line):
            return "".join(lines)
    raise AssertionError(process.stderr.read() if process.stderr else "")


@pytest.mark.parametrize("writing", ["parallel", "gather"])
def test_a_picture_and_the_status_follow_a_run_to_its_end(tmp_path, writing):
    """Started before the run, both report it in between, and end with what it ends with.

    The run stands still until both have.  The last picture is the one that is drawn of the
    finished file.
    """
    gate = tmp_path / "gate"
    model = {"arch": "testnets:Gated", "checkpoint": "centre.pt"}
    model["args"] = {"gate": str(gate), "batches": 40}
    job = write_job(tmp_path, model=model, grid=GRID, writing=writing)
    surface, picture = job.with_suffix(".h5"), tmp_path / "a.png"
    drawing = start(
        *("render", surface, "--as", "heatmap", "--output", picture, "--watch", "--every", "0.5")
    )
    telling = start("status", job, "--watch", "--every", "0.5")
    processes = [drawing, telling]
    try:
        drawn, told = wait_for(drawing, "waiting for"), wait_for(telling, "not started")
        run = start("eval", job, "--progress", "none", ranks=3)
        processes.append(run)
        drawn += wait_for(drawing, r"\d+ of 121 cells")
        told += wait_for(telling, r"done +\d+ \((?!100)")
        gate.touch()
        assert run.wait(120) == 0, run.stderr.read()
        drawn += drawing.stdout.read()
        told += telling.stdout.read()
        assert [drawing.wait(60), telling.wait(60)] == [0, 0], drawing.stderr.read()
    finally:
        for process in processes:
            end(process)
    counts = [int(n) for n in re.findall(r"(\d+) of 121 cells", drawn)]
    assert counts == sorted(set(counts))
    assert 0 < counts[0] < counts[-1] == 121
    assert told.rstrip().rpartition(f"{surface}: ")[2].startswith("finished")

    again = render.write([store.read(surface)], tmp_path / "b.png", kind="heatmap")
    np.testing.assert_array_equal(*(np.asarray(Image.open(p)) for p in (picture, again)))


def test_watching_ends_cleanly_with_control_c(tmp_path):
    """Exit code 75, one line, no traceback; the page no longer loads itself anew."""
    job = write_job(tmp_path, model=SLOW, grid=GRID)
    page = tmp_path / "a.html"
    surface = job.with_suffix(".h5")
    run = start("eval", job, "--progress", "none")
    drawing = start(
        "render", surface, "--as", "html", "--output", page, "--watch", "--every", "0.2"
    )
    telling = start("status", surface, "--watch", "--every", "0.2", "--json")
    try:
        wait_for(drawing, "of 121 cells")
        assert '"live": {' in page.read_text()
        wait_for(telling, '"state": "running"')
        for process in (drawing, telling):
            process.send_signal(signal.SIGINT)
            _, complaints = process.communicate(timeout=30)
            assert process.returncode == 75
            assert complaints.strip() == "stopped watching; the same command goes on"
    finally:
        for process in (drawing, telling, run):
            end(process)
    assert '"live": null' in page.read_text()
