"""Following a run from other processes while it writes."""

from __future__ import annotations

import re
import signal
import subprocess

import numpy as np
import pytest
from PIL import Image

from lsengine import render, store
from lsengine.cli import main
from lsengine.errors import UsageError
from lsengine.report import watch
from lsengine.surface import Surface, Trajectory
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


def test_control_c_is_not_lost_where_python_swallows_it():
    """In a callback of the garbage collector an exception is printed and goes no further."""

    class Interrupted:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)
            sum(range(10))

    looks = []

    def look_again():
        looks.append(1)
        Interrupted()
        return len(looks) > 5

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            watch._until(look_again, 0.01)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(looks) == 1


@pytest.mark.parametrize(
    "words", [["--as", "contuor"], ["--style", "papper"], ["--scale", "lgo"], ["-o", "a.jpg"]]
)
def test_a_wrong_word_is_not_waited_with(tmp_path, capsys, words):
    """What no surface could make right is refused before the surface exists."""
    assert main(["render", str(tmp_path / "a.h5"), "--watch", *words]) == 2
    assert "allowed" in capsys.readouterr().err


def test_a_run_that_is_watched_draws_what_is_not_there_yet_lighter():
    """The pixels of a missing cell are between its neighbour's and the page's."""
    x = np.linspace(-1, 1, 3)
    loss = np.full((3, 3), np.nan)
    loss[0] = (1.0, 2.0, 3.0)
    status = np.zeros((3, 3), np.uint8)
    status[0] = 1
    surface = Surface(
        name="s",
        source="s.h5",
        axes={"beta": x, "alpha": x},
        quantities={"train_loss": loss},
        status=status,
    )
    figure = render.figure([surface], kind="heatmap", filled=True)
    axes = figure.axes[0]
    figure.canvas.draw()
    image = np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int)
    colors = []
    for beta in (-1, 0):
        patch = axes.transData.transform([[-1.0 - 0.2, beta - 0.2], [-1 + 0.2, beta + 0.2]])
        (left, low), (right, high) = np.round(patch).astype(int)
        block = image[image.shape[0] - high : image.shape[0] - low, left:right].reshape(-1, 3)
        colors.append(np.median(block, axis=0))
    done, stands_in = colors
    np.testing.assert_allclose(stands_in, 255 - 0.4 * (255 - done), atol=3)


def growing(loss, *, has_path: bool = False, curved: bool = False) -> Surface:
    """Return a surface of 5 x 5 cells, or 5; those whose loss is NaN are missing."""
    x = np.linspace(-1, 1, 5)
    axes = {"alpha": x} if curved else {"beta": x, "alpha": x}
    loss = np.asarray(loss, float) * np.ones([5] * len(axes))
    accuracy = np.where(np.isnan(loss), np.nan, 0.5)
    columns = {"alpha": x, "beta": x, "epoch": np.arange(5), "status": np.ones(5, np.uint8)}
    return Surface(
        name="s",
        source="s.h5",
        axes=axes,
        quantities={"train_loss": loss, "train_accuracy": accuracy},
        status=(~np.isnan(loss)).astype(np.uint8),
        trajectory=Trajectory(columns) if has_path else None,
    )


def follow(surfaces, monkeypatch, tmp_path, kind: str, **look) -> int:
    """Watch a file that holds one surface after the other; return the exit code."""
    path, left = tmp_path / "s.h5", iter(surfaces)
    path.touch()
    monkeypatch.setattr(watch.inputs, "read", lambda *_: [next(left)])
    picture = tmp_path / ("a.html" if kind == "html" else "a.png")
    return watch.picture([str(path)], kind, picture, every_s=0.001, **look)


@pytest.mark.parametrize("kind", ["contour", "filled", "surface", "html", "curve"])
@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_cells_that_cannot_be_drawn_yet_are_waited_with(monkeypatch, tmp_path, capsys, kind, value):
    """First cells with an infinite loss, or checkpoints and no cell, end no watching."""
    first = np.full(5, np.nan)
    first[0] = value
    curved = kind == "curve"
    begun = growing(first, has_path=not curved, curved=curved)
    surfaces = [begun, begun, growing(np.arange(1.0, 6), curved=curved)]
    assert follow(surfaces, monkeypatch, tmp_path, kind, quantity="train_loss") == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split(" of ")[0] for line in said[:-1]] == ["waiting for the first cells"]
    assert said[-1].endswith("5 of 5 cells" if curved else "25 of 25 cells")


@pytest.mark.parametrize("kind", ["filled", "surface", "html"])
def test_a_complete_surface_that_cannot_be_drawn_is_refused(monkeypatch, tmp_path, kind):
    """Of a surface without any finite loss there is no picture to wait for."""
    with pytest.raises(UsageError, match="use --as heatmap"):
        follow([growing(np.inf)], monkeypatch, tmp_path, kind)


@pytest.mark.parametrize(
    ("kind", "look", "message"),
    [
        ("filled", {"quantity": "tarin_loss"}, "has no quantity"),
        ("filled", {"limits": (2.0, 1.0)}, "the lower first"),
        ("curve", {}, "has two directions"),
        ("trajectory", {}, "holds no trajectory"),
        ("curvature", {}, "holds no eigenvalues"),
    ],
)
def test_what_no_cell_could_make_right_is_not_waited_with(
    monkeypatch, tmp_path, kind, look, message
):
    """Of a surface without a cell done a wrong wish is refused at once."""
    with pytest.raises(UsageError, match=message):
        follow([growing(np.nan)], monkeypatch, tmp_path, kind, **look)
