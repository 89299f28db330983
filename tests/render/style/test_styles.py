"""Scales that a style asks for."""

from __future__ import annotations

import numpy as np
from matplotlib.contour import QuadContourSet

from lsengine import render
from tests.support.landscapes import cliffs, make_plane
from tests.support.pictures import contours, words


def test_every_level_of_a_quantile_scale_has_as_many_cells():
    """Between one contour and the next lie equally many cells, basin and cliffs alike."""
    surface = make_plane(cliffs, alphas=51, betas=51)
    figure = render.figure([surface], kind="filled", scale="quantile", levels=11)
    bar = figure.axes[-1]
    loss = surface.quantities["train_loss"]
    from lsengine.render.page import scales
    from lsengine.surface.quantities import describe

    levels = scales.choose(loss.ravel(), describe("train_loss"), "quantile", 11, None).levels
    counts = np.histogram(loss, levels)[0]
    assert levels[0] <= loss.min()
    assert levels[-1] >= loss.max()
    assert len(levels) == 11
    assert counts.sum() == loss.size
    assert np.abs(counts / loss.size - 0.1).max() < 0.035  # levels are round
    assert bar.get_ylabel() == "training loss"


def test_quantile_contours_are_at_their_values(plane):
    """The line of a level passes where the surface has that value."""
    surface = plane(lambda a, b: 1 + 4 * np.hypot(a, b), alphas=101, betas=101)
    drawn = contours(render.figure([surface], kind="contour", scale="quantile"))
    assert isinstance(drawn, QuadContourSet)
    scale_levels = np.sort(
        [float(np.hypot(*p.vertices.T).mean()) for p in drawn.get_paths() if len(p)]
    )
    text = words(render.figure([surface], kind="filled", scale="quantile"))
    assert len(scale_levels) > 6
    assert np.all(np.diff(scale_levels) > 0)
    assert "training loss" in text
    for path in drawn.get_paths():
        radius = np.hypot(*path.vertices.T)
        value = 1 + 4 * radius
        assert np.ptp(value) < 0.03


def test_limits_of_a_quantile_scale_are_its_ends():
    """Beyond them cells are counted as beyond the scale."""
    surface = make_plane(cliffs)
    figure = render.figure([surface], kind="filled", scale="quantile", limits=(0.5, 20.0))
    count = int((surface.quantities["train_loss"] > 20).sum())
    assert f"{count} cells above 20" in words(figure)
    assert contours(figure, filled=True).extend == "both"
