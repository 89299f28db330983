"""When watching draws, waits and ends."""

from __future__ import annotations

import re
import signal

import numpy as np
import pytest

from lsengine import render
from lsengine.cli import main
from lsengine.errors import UsageError
from lsengine.report import watch
from lsengine.surface import Surface, Trajectory


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
    assert re.search("allowed|expected", capsys.readouterr().err)


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
