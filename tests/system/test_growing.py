"""Flat pictures of a surface that is watched: every cell there is counts, not the coarse cut."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.contour import QuadContourSet

from lsengine import render
from lsengine.surface import DONE
from tests.support.landscapes import make_plane
from tests.support.pictures import words

LOWEST, HUGE = (11, 13), (5, 5)  # row and column of cells that the coarse cut leaves out


@pytest.fixture
def odd():
    """Return a plane with every second row and column, a deep cell and a cliff between them."""
    status = np.zeros((21, 21), np.uint8)
    status[::2, ::2] = DONE
    surface = make_plane(status=status)
    for at, value in ((LOWEST, 0.25), (HUGE, 1e6)):
        surface.status[at] = DONE
        surface.quantities["train_loss"][at] = value
    return surface


@pytest.mark.parametrize("kind", ["filled", "contour", "heatmap"])
def test_the_lowest_cell_is_the_lowest_of_all_that_are_painted(odd, kind):
    """A cell off the coarse cut is ringed and named, and the cliff counted beyond the scale."""
    figure = render.figure([odd], kind=kind, filled=True)
    said = words(figure)
    assert "lowest cell, 0.25" in said
    assert "1 cell above" in said
    ring = next(line for line in figure.axes[0].lines if line.get_marker() == "o")
    a, b = odd.axes["alpha"][LOWEST[1]], odd.axes["beta"][LOWEST[0]]
    np.testing.assert_allclose(np.ravel(ring.get_xydata()), (a, b))


@pytest.mark.parametrize("kind", ["filled", "contour"])
def test_thin_lines_say_which_cells_they_join(odd, kind):
    """Lines are those of the complete coarse cells; a heat map has none."""
    cells = "lines drawn from 11 \N{MULTIPLICATION SIGN} 11 complete cells"
    figure = render.figure([odd], kind=kind, filled=True)
    assert cells in words(figure)
    drawn = next(c for c in figure.axes[0].collections if isinstance(c, QuadContourSet))
    assert sum(len(path.vertices) > 0 for path in drawn.get_paths()) > 1
    for log_loss, path in zip(drawn.levels, drawn.get_paths(), strict=True):
        radius = np.sqrt((10**log_loss - 1) / 4)
        np.testing.assert_allclose(np.hypot(*path.vertices.T), radius, atol=0.05)
    assert "lines drawn" not in words(render.figure([odd], kind="heatmap", filled=True))
