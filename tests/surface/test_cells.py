"""Sorting cells into drawn and not drawn."""

from __future__ import annotations

import numpy as np
import pytest

from lsengine.errors import UsageError
from lsengine.surface import DONE, FAILED, MISSING, cells
from lsengine.surface.grid import make_grid
from lsengine.surface.quantities import describe

LOSS = describe("train_loss")


@pytest.mark.parametrize("seed", range(5))
def test_tally_equals_a_count_by_hand(plane, seed):
    """Every cell is counted once, by the first reason that keeps it from being drawn."""
    random = np.random.default_rng(seed)
    surface = plane(alphas=17, betas=9)
    surface.status[...] = random.choice([MISSING, DONE, FAILED], (9, 17))
    loss = surface.quantities["train_loss"]
    loss[random.random(loss.shape) < 0.3] = np.nan
    loss[random.random(loss.shape) < 0.2] = np.inf
    expected = {"missing": 0, "failed": 0, "nan": 0, "infinite": 0}
    for state, value in zip(surface.status.ravel(), loss.ravel(), strict=True):
        if state == MISSING:
            expected["missing"] += 1
        elif state == FAILED:
            expected["failed"] += 1
        elif np.isnan(value):
            expected["nan"] += 1
        elif np.isinf(value):
            expected["infinite"] += 1
    sorted_ = cells.plane(surface, LOSS)
    assert {key: getattr(sorted_.tally, key) for key in expected} == expected
    assert sorted_.finite.size == loss.size - sum(expected.values())


def test_falling_coordinates_are_drawn_rising(plane):
    """An axis stored from right to left gives the same plane."""
    surface = plane(lambda a, b: a + 3 * b)
    turned = plane(lambda a, b: a + 3 * b)
    turned.axes["alpha"][:] = turned.axes["alpha"][::-1].copy()
    turned.quantities["train_loss"][:] = turned.quantities["train_loss"][:, ::-1].copy()
    one, other = cells.plane(surface, LOSS), cells.plane(turned, LOSS)
    np.testing.assert_array_equal(one.values, other.values)
    np.testing.assert_array_equal(one.alpha, other.alpha)


def test_equal_coordinates_are_refused(plane):
    """A plane without extent is a clear message."""
    with pytest.raises(UsageError, match="alpha coordinates are not 21 different"):
        cells.plane(plane(reach=(0.0, 1.0)), LOSS)


@pytest.mark.parametrize(("share", "coarse"), [(0.08, True), (0.3, True), (0.97, False)])
def test_a_partial_grid_is_joined_over_its_complete_coarse_part(plane, share, coarse):
    """In the order of a run, the coarse cut has no missing cell and spans nearly everything."""
    order = np.asarray(make_grid((-1, 1, 51), (-1, 1, 51)).visiting_order())
    status = np.zeros(51 * 51, np.uint8)
    status[order[: int(share * order.size)]] = DONE
    joined = cells.joined(
        cells.plane(plane(alphas=51, betas=51, status=status.reshape(51, 51)), LOSS)
    )
    assert bool(joined.coarse) == coarse
    if coarse:
        assert not joined.missing.any()
        assert joined.alpha[-1] - joined.alpha[0] > 1.6
        assert joined.beta[-1] - joined.beta[0] > 1.6
        a, b = np.meshgrid(joined.alpha, joined.beta)
        np.testing.assert_allclose(joined.values, 1 + 4 * (a**2 + b**2))


def test_a_few_scattered_holes_do_not_coarsen_the_grid(plane):
    """Five per cent of missing cells leave holes, not a coarser picture."""
    status = (np.random.default_rng(0).random((51, 51)) > 0.05).astype(np.uint8)
    surface = plane(alphas=51, betas=51, status=status)
    assert not cells.joined(cells.plane(surface, LOSS)).coarse


def test_borders_lie_midway_between_cells():
    """Borders of an uneven axis are midpoints; a single cell takes the other axis' width."""
    np.testing.assert_allclose(cells.edges(np.array([0.0, 1, 3]), np.zeros(1)), [-0.5, 0.5, 2, 4])
    np.testing.assert_allclose(cells.edges(np.zeros(1), np.array([0.0, 0.2])), [-0.1, 0.1])


def test_test_error_is_that_of_the_centre(plane, curve):
    """The caption's error belongs to alpha = beta = 0, and is absent where that cell is."""
    assert cells.error_at(plane()) == pytest.approx(7.0)
    assert cells.error_at(plane(alphas=20)) is None
    assert cells.error_at(curve(repeats=3)) == pytest.approx(100 * (1 - 0.95 * np.exp(-0.02 / 6)))
    surface = plane()
    surface.status[10, 10] = MISSING
    assert cells.error_at(surface) is None


def test_of_equal_cells_the_one_nearest_the_centre_is_marked(plane):
    """A flat basin is marked at its middle, not in a corner."""
    flat = cells.plane(plane(lambda a, b: np.maximum(a**2 + b**2, 0.5)), LOSS)
    assert flat.best("low") == (0.0, 0.0, 0.5)


def test_only_values_beyond_all_bounds_are_moved_to_be_drawn():
    """Others stay as they are, the same array if there is nothing else."""
    plain = np.array([0.0, -1e139, 1e-139, np.nan, np.inf, -np.inf])
    assert cells.drawable(plain) is plain
    odd = np.array([1e308, -1e308, 1e-300, -5e-324, 3.0, np.inf])
    np.testing.assert_array_equal(cells.drawable(odd), [1e140, -1e140, 0, 0, 3, np.inf])
