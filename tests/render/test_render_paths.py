"""Trajectories over a plane."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lsengine import render
from lsengine.errors import UsageError
from lsengine.render.paths import RED
from lsengine.surface import Trajectory


def _walked(surface, **attributes):
    """Return a surface with a spiral of nine checkpoints; the rate drops after the fifth."""
    angle = np.linspace(3, 0, 9)
    columns = {
        "epoch": np.arange(0, 90, 10),
        "alpha": 0.25 * angle * np.cos(angle),
        "beta": 0.25 * angle * np.sin(angle),
        "distance": np.linspace(0.2, 0, 9),
        "length": np.linspace(0.8, 0, 9),
        "learning_rate": np.array([np.nan, *[0.1] * 4, *[0.01] * 4]),
    }
    return replace(surface, trajectory=Trajectory(columns, attributes))


def _lines(figure, color):
    return [line for line in figure.axes[0].lines if line.get_color() == color]


def test_checkpoints_are_where_they_lie(plane):
    """The path goes through all of them in order; the start and the end say their epochs."""
    surface = _walked(plane())
    figure = render.figure([surface], kind="trajectory")
    path = next(line for line in figure.axes[0].lines if len(line.get_xdata()) == 9)
    np.testing.assert_array_equal(path.get_xdata(), surface.trajectory.columns["alpha"])
    np.testing.assert_array_equal(path.get_ydata(), surface.trajectory.columns["beta"])
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert {"epoch 0", "epoch 80"} <= set(texts)


def test_drops_of_the_learning_rate_are_red(plane):
    """The last checkpoint with the higher rate is marked, and the note says what red means."""
    figure = render.figure([_walked(plane())], kind="trajectory")
    (red,) = _lines(figure, RED)
    assert red.get_xdata() == pytest.approx([_walked(plane()).trajectory.columns["alpha"][4]])
    assert any("red: the learning rate drops" in t.get_text() for t in figure.axes[0].texts)


def test_principal_axes_say_what_they_explain(plane):
    """The labels are those of the paper; axes of other directions keep their letters."""
    surface = _walked(plane(), explained_variance_ratio=np.array([0.782, 0.113]))
    axes = render.figure([surface], kind="trajectory").axes[0]
    assert axes.get_xlabel() == "1st principal component: 78.2 %"
    assert axes.get_ylabel() == "2nd principal\ncomponent: 11.3 %"
    other = render.figure([_walked(plane())], kind="trajectory").axes[0]
    assert other.get_xlabel() == r"$\alpha$"


def test_the_path_alone_is_drawn_before_the_grid_is_evaluated(plane):
    """Without any cell there is no colour, but the path, and the number of missing cells."""
    surface = plane(status=np.zeros((21, 21), np.uint8))
    figure = render.figure([_walked(surface)], kind="trajectory")
    assert len(figure.axes) == 1
    assert any("441 of 441 cells missing" in t.get_text() for t in figure.axes[0].texts)


def test_a_surface_without_trajectory_is_refused(plane):
    """The message says how to get one."""
    with pytest.raises(UsageError, match="run lsengine trajectory on it"):
        render.figure([plane()], kind="trajectory")


@pytest.mark.parametrize("style", ["paper", "dark"])
def test_every_style_draws_it_twice_the_same(plane, tmp_path, style):
    """Equal arguments give equal bytes."""
    made = [
        render.save(
            render.figure([_walked(plane())], kind="trajectory", style=style), tmp_path / name
        ).read_bytes()
        for name in ("a.png", "b.png")
    ]
    assert made[0] == made[1]
