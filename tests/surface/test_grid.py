"""Axes, cells, order and chunks."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lsengine.surface.grid import Cell, coordinates, make_grid


@given(st.floats(0.01, 100), st.integers(1, 60))
def test_symmetric_axes_have_an_exact_zero(limit, half):
    """An odd number of points from -x to x has exactly 0.0 in the middle, never 1e-17."""
    assert coordinates(-limit, limit, 2 * half + 1)[half] == 0.0


def test_coordinates_are_equally_spaced_and_keep_their_ends():
    """The first and last coordinate are the ones asked for."""
    values = coordinates(-0.3, 1.7, 11)
    assert (values[0], values[-1]) == (-0.3, 1.7)
    np.testing.assert_allclose(np.diff(values), 0.2, rtol=1e-12)


def test_one_point_is_a_legal_axis():
    """A single cell at the centre is a surface."""
    assert coordinates(0, 0, 1).tolist() == [0.0]


def test_row_is_beta_and_column_is_alpha():
    """The flat index runs along alpha first, on a grid that is not square."""
    grid = make_grid([0, 3, 4], [10, 20, 3])
    assert grid.shape == (3, 4)
    cell = grid.cell(1 * 4 + 2)
    assert (cell.alpha, cell.beta) == (2.0, 15.0)


def test_the_place_of_a_cell_names_the_axes_there_are():
    """A curve has no beta to speak of, a plane has one even where it is 0."""
    assert make_grid([-1, 1, 5]).describe(Cell(0.5)) == "alpha=0.5"
    assert make_grid([-1, 1, 5], [0, 1, 2]).describe(Cell(0.5)) == "alpha=0.5 beta=0"
    assert make_grid([-1, 1, 5], repeats=3).describe(Cell(0.5, 0.0, 2)) == "alpha=0.5 repeat=2"


def test_repeats_are_rows_of_a_curve():
    """With repeats the first axis counts independent directions."""
    grid = make_grid([-1, 1, 5], repeats=3)
    assert grid.shape == (3, 5)
    assert (grid.cell(12).repeat, grid.cell(12).alpha) == (2, 0.0)


@given(st.integers(1, 20), st.integers(1, 20))
def test_every_cell_is_visited_exactly_once(alphas, betas):
    """The order of visiting is a permutation of all cells."""
    grid = make_grid([-1, 1, alphas], [-1, 1, betas])
    assert sorted(grid.visiting_order()) == list(range(grid.size))


def test_any_leading_part_of_the_order_covers_the_whole_extent():
    """The first sixteenth of a plane is a regular sub-grid around the middle."""
    grid = make_grid([-1, 1, 33], [-1, 1, 33])
    first = grid.visiting_order()[: 9 * 9]
    rows, columns = np.unravel_index(first, grid.shape)
    assert set(rows) == set(columns) == set(range(0, 33, 4))


def test_the_middle_comes_first():
    """The first cell evaluated is the centre of a symmetric grid."""
    grid = make_grid([-1, 1, 51], [-1, 1, 31])
    assert grid.cell(grid.visiting_order()[0]) == Cell(0.0)


@given(st.integers(1, 40), st.integers(1, 40))
def test_every_cell_has_a_coarse_cell_nearby(alphas, betas):
    """Coarse cells are their own, lie every fourth point from the middle, and are near."""
    grid = make_grid([-1, 1, alphas], [-1, 1, betas])
    coarse = grid.warm_start_cells()
    assert (coarse[coarse] == coarse).all()
    rows, columns = np.unravel_index(coarse, grid.shape)
    assert ((rows - betas // 2) % 4 == 0).all()
    assert ((columns - alphas // 2) % 4 == 0).all()
    own_rows, own_columns = np.unravel_index(np.arange(grid.size), grid.shape)
    assert np.abs(rows - own_rows).max() <= 3
    assert np.abs(columns - own_columns).max() <= 3


def test_blocks_come_together_after_the_coarse_cells():
    """Every coarse cell first, then each block without a break; nothing twice."""
    grid = make_grid([-1, 1, 13], [-1, 1, 9])
    order, coarse = grid.visiting_order_by_blocks(), grid.warm_start_cells()
    assert sorted(order) == list(range(grid.size))
    count = len(set(coarse))
    assert set(order[:count]) == set(coarse)
    blocks = coarse[order[count:]]
    changes = np.count_nonzero(np.diff(blocks))
    assert changes == len(set(blocks)) - 1
