"""Planes seen from above: where lines and cells are, and what is said of them."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.collections import QuadMesh

from lsengine import render
from lsengine.surface import DONE
from tests.support.landscapes import cliffs
from tests.support.pictures import contours, pixels, words

pytestmark = pytest.mark.usefixtures("no_warning")


def test_contours_of_a_circular_bowl_are_circles_of_the_right_radius(plane):
    """Every vertex of a line at level v lies at the radius where the bowl is v."""
    drawn = contours(render.figure([plane(alphas=51, betas=51)], kind="contour"))
    assert len(drawn.levels) >= 6
    for level, path in zip(drawn.levels, drawn.get_paths(), strict=True):
        radius = np.hypot(*path.vertices.T)
        np.testing.assert_allclose(radius, np.sqrt((level - 1) / 4), atol=2e-3)


def test_contours_on_a_log_scale_are_at_their_value_too(plane):
    """Interpolation in the logarithm is exact for an exponential bowl."""
    surface = plane(lambda a, b: 10 ** (2 * np.hypot(a, b)), alphas=101, betas=101)
    drawn = contours(render.figure([surface], kind="contour"))
    for scaled, path in zip(drawn.levels, drawn.get_paths(), strict=True):
        np.testing.assert_allclose(np.hypot(*path.vertices.T), scaled / 2, atol=3e-3)


def test_the_same_panel_twice_has_the_same_pixels(plane):
    """Two panels of one surface differ in nothing but their place."""
    figure = render.figure([plane(cliffs), plane(cliffs)], kind="heatmap")
    image = pixels(figure, 100)
    height = image.shape[0]
    parts = []
    for axes in figure.axes[:2]:
        box = axes.bbox.transformed(figure.dpi_scale_trans.inverted())
        x, y = round(100 * box.x0) + 3, height - round(100 * box.y1) + 3
        parts.append(image[y : y + 150, x : x + 150])
    assert np.abs(parts[0] - parts[1]).mean() < 6


def test_a_heat_map_masks_exactly_the_cells_without_a_value(plane):
    """The drawn mesh has as many open cells as the surface has without a finite result."""
    surface = plane()
    surface.status[3, 4:9] = 0
    surface.quantities["train_loss"][7, 7] = np.nan
    figure = render.figure([surface], kind="heatmap")
    meshes = [c for c in figure.axes[0].collections if isinstance(c, QuadMesh)]
    masked = [int(np.ma.getmaskarray(mesh.get_array()).sum()) for mesh in meshes]
    assert 6 in masked


def test_a_coarse_partial_grid_still_gets_contours_and_says_so(plane):
    """With every second row and column there, the contours are those of the coarse grid."""
    status = np.zeros((21, 21), np.uint8)
    status[::2, ::2] = DONE
    figure = render.figure([plane(status=status)], kind="contour")
    assert "drawn from 11 \N{MULTIPLICATION SIGN} 11 complete cells" in words(figure)
    for level, path in zip(contours(figure).levels, contours(figure).get_paths(), strict=True):
        np.testing.assert_allclose(np.hypot(*path.vertices.T), np.sqrt((level - 1) / 4), atol=0.03)


def test_clipped_cliffs_are_announced(plane):
    """The colour bar has an arrow and the note the number of cells beyond it."""
    surface = plane(lambda a, b: np.where((a > 0.85) & (b > 0.85), 1e6, 1 + a**2 + b**2))
    count = int((surface.quantities["train_loss"] == 1e6).sum())
    figure = render.figure([surface], kind="filled")
    assert contours(figure, filled=True).extend == "max"
    assert f"{count} cells above" in words(figure)


def test_accuracy_is_drawn_in_percent(plane):
    """The colour bar says percent and reaches the accuracy of the centre."""
    figure = render.figure([plane()], kind="filled", quantity="test_accuracy")
    assert "test accuracy (%)" in words(figure)
    assert "highest cell, 93 %" in words(figure)
