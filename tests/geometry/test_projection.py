"""Projections of checkpoints onto planes, and axes that cover them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lsengine.geometry.principal import principal_components
from lsengine.geometry.projection import axis_range, expected_cosine, project
from tests.support.walks import SHAPES, SIZE, flat, named, pca_of, vectors, walk


def test_a_point_of_the_plane_projects_to_its_own_coordinates():
    """Centre plus a combination of directions comes back with distance zero."""
    rows = walk(15)
    directions = principal_components(vectors(rows)).directions
    centre = named(rows[-1])
    wanted = np.array([[0.0, 0.0], [1.5, -0.25], [-3.0, 1e-3]])
    plane = np.stack([flat(d) for d in directions])
    points = rows[-1] + wanted @ plane
    found = project(vectors(points), centre, directions)
    np.testing.assert_allclose(found.coordinates, wanted, atol=1e-13)
    np.testing.assert_allclose(found.distance, 0, atol=1e-13)
    single = project(vectors(points.astype(np.float32)), centre, directions)
    np.testing.assert_allclose(single.coordinates, wanted, atol=1e-6)


def test_projection_onto_principal_components_gives_pcas_scores():
    """Coordinates differ from PCA's scores by those of the final checkpoint."""
    rows = walk(18)
    directions = principal_components(vectors(rows)).directions
    found = project(vectors(rows), named(rows[-1]), directions)
    scores = pca_of(rows).transform(rows - rows[-1])[:, :2]
    np.testing.assert_allclose(found.coordinates, scores - scores[-1], atol=1e-6)
    assert (found.coordinates[-1] == 0).all()
    assert (found.cosine[-1] == 0).all()


@pytest.mark.parametrize("lean", [0.0, 0.7, 3e-5])
def test_skew_directions_are_solved_by_least_squares(lean):
    """Coordinates and distances equal numpy's least squares, however skew the plane."""
    rng = np.random.default_rng(8)
    first, other = rng.standard_normal((2, SIZE))
    basis = np.stack([5 * first, first + lean * other]) if lean else np.stack([first, other])
    basis = basis.astype(np.float32).astype(np.float64)
    rows, centre = walk(9), walk(1, seed=9)[0]
    found = project(vectors(rows), named(centre), [named(b) for b in basis])
    expected, *_ = np.linalg.lstsq(basis.T, (rows - centre).T, rcond=None)
    np.testing.assert_allclose(found.coordinates, expected.T, rtol=1e-9, atol=1e-9)
    residual = rows - centre - expected.T @ basis
    np.testing.assert_allclose(found.distance, np.linalg.norm(residual, axis=1), rtol=1e-12)
    np.testing.assert_allclose(found.length, np.linalg.norm(rows - centre, axis=1), rtol=1e-12)
    cosine = (rows - centre) @ basis.T / np.outer(found.length, np.linalg.norm(basis, axis=1))
    np.testing.assert_allclose(found.cosine, cosine, rtol=1e-9)


def test_a_tiny_distance_is_not_lost_in_a_long_way():
    """A distance of 1e-9 of the way along the plane is right to six digits."""
    first = np.eye(SIZE)[0]
    row = 1e3 * first + 1e-6 * np.eye(SIZE)[3]
    found = project(vectors(row[None]), named(np.zeros(SIZE)), [named(first)])
    assert found.distance[0] == pytest.approx(1e-6, rel=1e-6)


def test_parameters_absent_from_a_direction_do_not_move_but_count_for_the_distance():
    """A direction without biases leaves the biases' difference as distance."""
    rows = np.zeros((2, SIZE))
    rows[0] = flat({n: torch.full(s, 2.0) for n, s in SHAPES.items()})
    direction = {"fc.weight": torch.ones(5, 7)}
    found = project(vectors(rows), named(rows[1]), [direction])
    assert found.coordinates[0, 0] == pytest.approx(2)
    assert found.distance[0] == pytest.approx(2 * math.sqrt(SIZE - 35))


def test_directions_that_span_no_plane_are_refused():
    """Zero, parallel and foreign directions are told apart."""
    rows = walk(3)
    centre, one = named(rows[0]), named(rows[1].astype(np.float32))
    zero = {n: torch.zeros(s) for n, s in SHAPES.items()}
    opposite = {n: -3 * t for n, t in one.items()}
    with pytest.raises(ValueError, match="direction 1 is zero"):
        project(vectors(rows), centre, [one, zero])
    with pytest.raises(ValueError, match="linearly dependent"):
        project(vectors(rows), centre, [one, opposite])
    with pytest.raises(ValueError, match="direction 0 moves scale"):
        project(vectors(rows, ["fc.bias"]), centre, [{"scale": one["scale"]}])


@pytest.mark.parametrize("size", [50, 1000])
def test_expected_cosine_is_that_of_random_directions(size):
    """The mean modulus over many random pairs agrees to the accuracy of the sample."""
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, 4000, size))
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    error = cosines.std() / math.sqrt(4000)
    assert np.abs(cosines).mean() == pytest.approx(expected_cosine(size), abs=4 * error)


def test_an_axis_covers_trajectory_and_centre():
    """The range holds every checkpoint and zero with a margin, and is never empty."""
    assert axis_range(np.array([2.0, 10.0]), 0.1) == pytest.approx((-1.0, 11.0))
    assert axis_range(np.array([-4.0, 1.0]), 0.2) == pytest.approx((-5.0, 2.0))
    assert axis_range(np.array([3.0]), 0.0) == (0.0, 3.0)
    assert axis_range(np.zeros(3)) == (-1.0, 1.0)
    with pytest.raises(ValueError, match="finite"):
        axis_range(np.array([0.0, math.nan]))
