"""The figures of a basin against surfaces whose figures are known."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from lsengine.errors import UsageError
from lsengine.report.flatness import Level, Measure
from lsengine.surface import DONE, FAILED, MISSING, Surface
from tests.support.basins import A, B, H, bowl, curve, figures, plane


def test_a_bowl_has_the_figures_of_an_ellipse():
    """Area, radius, curvatures and convexity of a quadratic on a grid that is not square."""
    found = figures(plane())
    assert found["area"].value == pytest.approx(np.pi * H / np.sqrt(A * B), rel=4e-3)
    assert found["basin"].value == pytest.approx(found["area"].value)
    assert found["radius"].value == pytest.approx(np.sqrt(2 * H / (A + B)), rel=2e-3)
    assert found["curvature_1"].value == pytest.approx(2 * B)
    assert found["curvature_2"].value == pytest.approx(2 * A)
    assert found["convexity"].value == pytest.approx(1.0, abs=1e-9)
    assert found["minima"].value == 1
    assert found["train_loss"].value == pytest.approx(0.3)
    assert found["test_error"].value == pytest.approx(0.07)
    assert not any(m.is_bound for m in found.values())


def test_the_area_converges_with_the_square_of_the_spacing():
    """The documented error of the linear pieces, a third of (spacing / radius) squared."""
    true = np.pi * H / A
    for points in (21, 41, 81):
        found = figures(plane(lambda x, y: 0.3 + A * (x**2 + y**2), points, points, (1, 1)))
        expected = (2 / (points - 1) / 0.5) ** 2 / 3
        assert 1 - found["area"].value / true == pytest.approx(expected, rel=0.3)


def test_principal_curvatures_do_not_depend_on_the_axes():
    """A turned bowl has the same two curvatures."""
    c, s = np.cos(0.7), np.sin(0.7)
    found = figures(plane(lambda x, y: bowl(c * x - s * y, s * x + c * y)))
    assert found["curvature_1"].value == pytest.approx(2 * B)
    assert found["curvature_2"].value == pytest.approx(2 * A)


def test_a_basin_in_the_shape_of_a_cross_has_its_known_convexity():
    """Arms of half-width w and length 1: the hull is an octagon."""
    w, long = 0.2, 0.6

    def cross(x, y):
        x, y = np.abs(x), np.abs(y)
        return np.maximum(np.minimum(x, y) / w, np.maximum(x, y) / long)

    found = figures(plane(cross, 201, 201, (1, 1)), "1")
    area = 8 * w * long - 4 * w**2
    hull = 4 * long**2 - 2 * (long - w) ** 2
    assert found["basin"].value == pytest.approx(area, rel=0.01)
    assert found["convexity"].value == pytest.approx(area / hull, rel=0.01)


def test_other_basins_count_for_the_area_alone():
    """Two equal bowls: the basin and the radius are the centre's own."""

    def twins(x, y):
        return 0.3 + 9 * np.minimum(np.hypot(x, y), np.hypot(x - 1, y)) ** 2

    found = figures(plane(twins, 121, 41, (2, 0.7)))
    assert found["area"].value == pytest.approx(2 * found["basin"].value, rel=1e-3)
    assert found["radius"].value == pytest.approx(1 / 3, rel=0.01)
    assert found["minima"].value == 2


def test_rays_that_leave_beyond_the_median_do_not_spoil_it():
    """The radius is exact though the basin leaves the grid along alpha."""
    found = figures(plane(), "+4.7")
    assert found["area"].is_bound
    assert not found["radius"].is_bound
    assert found["radius"].value == pytest.approx(np.sqrt(2 * 4.7 / (A + B)), rel=3e-3)


@pytest.mark.parametrize("level", ["+1", "x2", "1.3"])
def test_levels_are_differences_factors_or_losses(level):
    """The three ways of giving the level."""
    expected = {"+1": 1.3, "x2": 0.6, "1.3": 1.3}[level]
    assert figures(plane(), level)["level"].value == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "+", "x1", "x0.5", "0", "-1", "nan", "1.2.3", "twice"])
def test_a_level_that_is_none_is_refused(text):
    """The message says what is allowed."""
    with pytest.raises(UsageError, match=r"--level: got .* expected \+0.1"):
        Level.parse(text)


def test_a_hole_far_from_the_basin_changes_nothing():
    """NaN and infinity where the loss is high leave every figure exact."""
    surface = plane()
    values = surface.quantities["train_loss"]
    expected = figures(surface)
    values[0, 0], values[-1, -1] = np.nan, np.inf
    assert figures(surface) == expected


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (1, 1), (2, 2)])
def test_planes_without_area_are_not_measured_but_not_refused(shape):
    """One cell, one row, one column."""
    found = figures(plane(betas=shape[0], alphas=shape[1]), "3")
    assert found["curvature_1"].value is None
    assert found["convexity"].value is None


def test_a_parabola_has_its_width_and_curvature():
    """Width 2 sqrt(h / a), curvature 2 a."""
    found = figures(curve())
    assert found["width"].value == pytest.approx(2 * np.sqrt(H / A), rel=1e-3)
    assert found["curvature"].value == pytest.approx(2 * A)
    whole = Measure(2.0, is_bound=True, why="reaches the end of the finite cells")
    assert figures(curve(), "9")["width"] == whole


def test_repeats_have_a_median_and_quartiles():
    """Three parabolas: the middle one, and the quartiles between neighbours."""
    found = figures(curve((2.0, 4.0, 8.0)))["curvature"]
    assert found.value == pytest.approx(8.0)
    assert found.spread == pytest.approx((6.0, 12.0))


def test_a_wide_repeat_does_not_make_the_median_a_bound():
    """One of three leaves the grid; the median is still exact."""
    found = figures(curve((0.5, 4.0, 8.0)))["width"]
    assert not found.is_bound
    assert found.value == pytest.approx(1.0, rel=1e-3)
    assert figures(curve((0.5, 0.6, 8.0)))["width"].is_bound


def test_a_failed_cell_ends_a_width_and_a_missing_one_is_joined_over():
    """What is not computed yet may be anything, but a failure is a wall."""
    surface = curve()
    surface.status[44] = MISSING
    assert figures(surface)["width"].value == pytest.approx(1.0, rel=1e-3)
    surface.status[44] = FAILED
    assert figures(surface)["width"].is_bound


def test_a_centre_on_the_grids_edge_is_measured_without_a_complaint():
    """A grid that begins at zero has rays of no length; the radius stays a number."""
    axis = np.linspace(0, 1, 21)
    x, y = np.meshgrid(axis, axis)
    status = np.full(x.shape, DONE, np.uint8)
    corner = Surface(
        name="c",
        source="c.h5",
        axes={"beta": axis, "alpha": axis},
        quantities={"train_loss": x**2 + y**2},
        status=status,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isfinite(figures(corner, level="+0.25")["radius"].value)
