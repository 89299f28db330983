"""Curves between two minima: their points, barriers and planes."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.polynomial import Polynomial

from lsengine.geometry.curve import barrier, coefficients, curve_in_plane, initial, plane, point

TS = np.linspace(0, 1, 41)
SHAPES = {"first.weight": (6, 3), "first.bias": (6,), "last.weight": (2, 6), "last.bias": (2,)}


def _ends():
    generator = torch.Generator().manual_seed(1)
    return tuple({n: torch.randn(s, generator=generator) for n, s in SHAPES.items()} for _ in "ab")


def _de_casteljau(controls, t):
    while len(controls) > 1:
        controls = [(1 - t) * a + t * b for a, b in pairwise(controls)]
    return controls[0]


@pytest.mark.parametrize("bends", [0, 1, 2, 5])
def test_bezier_equals_de_casteljaus_construction(bends):
    """Weighted control points equal repeated halving of the way between neighbours."""
    controls = np.random.default_rng(bends).standard_normal((bends + 2, 3))
    for t in TS:
        found = coefficients("bezier", bends, t) @ controls
        np.testing.assert_allclose(found, _de_casteljau(list(controls), t), atol=1e-14)


def test_quadratic_bezier_has_the_polynomials_of_the_paper():
    """With one bend the weights are (1 - t)^2, 2 t (1 - t) and t^2."""
    t = Polynomial([0, 1])
    polynomials = [(1 - t) ** 2, 2 * t * (1 - t), t**2]
    for at in TS:
        expected = [p(at) for p in polynomials]
        np.testing.assert_allclose(coefficients("bezier", 1, at), expected, atol=1e-15)


@pytest.mark.parametrize("kind", ["bezier", "polygonal"])
@pytest.mark.parametrize("bends", [0, 1, 2, 3, 6])
def test_ends_are_exact_and_weights_add_up_to_one(kind, bends):
    """At 0 and 1 nothing but an end counts; between them weights are a partition of one."""
    assert coefficients(kind, bends, 0.0).tolist() == [1.0] + [0.0] * (bends + 1)
    assert coefficients(kind, bends, 1.0).tolist() == [0.0] * (bends + 1) + [1.0]
    for t in TS:
        weights = coefficients(kind, bends, t)
        assert (weights >= 0).all()
        assert weights.sum() == pytest.approx(1, abs=1e-14)


def test_polygonal_chain_is_linear_between_its_control_points():
    """It passes through every control point and is straight between neighbours."""
    corners = np.random.default_rng(0).standard_normal((5, 3))
    knots = np.arange(5) / 4
    for t in np.linspace(0, 1, 101):
        expected = [np.interp(t, knots, column) for column in corners.T]
        np.testing.assert_allclose(coefficients("polygonal", 3, t) @ corners, expected, atol=1e-14)


def test_points_keep_dtype_and_exact_ends():
    """The ends come back bit for bit, also beside a bend that is not finite."""
    start, end = _ends()
    controls = initial(start, end, 1)
    controls[1]["first.weight"][0, 0] = math.inf
    for t, expected in ((0.0, start), (1.0, end)):
        found = point(controls, "bezier", t)
        assert all(torch.equal(found[n], expected[n]) for n in expected)
        assert found["first.weight"].data_ptr() != expected["first.weight"].data_ptr()


@pytest.mark.parametrize("kind", ["bezier", "polygonal"])
def test_the_initial_curve_is_the_straight_line(kind):
    """Bends start evenly on the line, so that t is the fraction of the way."""
    start, end = _ends()
    controls = initial(start, end, 3)
    for t in TS[::8]:
        for name, tensor in point(controls, kind, t).items():
            torch.testing.assert_close(tensor, torch.lerp(start[name], end[name], float(t)))


def test_barrier_is_the_excess_over_the_line_between_the_ends():
    """A loss that is linear in t has none, whatever its slope; a hill has its height over it."""
    assert barrier(3 - 2 * TS, TS) == pytest.approx(0, abs=1e-15)
    hill = 3 - 2 * TS + 4 * TS * (1 - TS)
    assert barrier(hill, TS) == pytest.approx(1)
    assert barrier(hill[::-1], TS[::-1]) == pytest.approx(1)
    assert barrier(-4 * TS * (1 - TS), TS) == 0
    assert math.isnan(barrier(np.array([0.0, math.nan, 0.0]), np.array([0, 0.5, 1])))
    assert barrier(np.array([0.0, math.inf, 0.0]), np.array([0, 0.5, 1])) == math.inf
    with pytest.raises(ValueError, match="both ends"):
        barrier(hill[1:], TS[1:])


@pytest.mark.parametrize(("kind", "bends"), [("bezier", 1), ("polygonal", 1), ("bezier", 3)])
def test_the_plane_holds_ends_bend_and_curve(kind, bends):
    """Its directions are orthonormal, and its coordinates lead back to the points."""
    generator = torch.Generator().manual_seed(4)
    controls = initial(*_ends(), bends)
    for control in controls[1:-1]:
        for tensor in control.values():
            tensor += 0.3 * torch.randn(tensor.shape, generator=generator)
    found = plane(controls)
    vectors = torch.stack([torch.cat([v.flatten() for v in d.values()]) for d in found.directions])
    torch.testing.assert_close(vectors @ vectors.T, torch.eye(2), atol=1e-6, rtol=0)
    assert found.coordinates[0].tolist() == [0, 0]
    assert found.coordinates[-1, 1] == pytest.approx(0, abs=1e-12)
    assert found.coordinates[1, 1] > 0
    np.testing.assert_allclose(found.distance[[0, 1, -1]], 0, atol=1e-12)
    curve = curve_in_plane(found, kind, TS)
    start = torch.cat([v.flatten() for v in controls[0].values()])
    for t, xy in zip(TS, curve, strict=True):
        there = torch.cat([v.flatten() for v in point(controls, kind, t).values()]) - start
        torch.testing.assert_close(vectors @ there, torch.tensor(xy).float(), atol=1e-5, rtol=1e-5)
        if bends == 1:
            back = torch.tensor(xy).float() @ vectors
            torch.testing.assert_close(back, there, atol=1e-5, rtol=1e-5)
    if bends == 3:
        assert found.distance[2] > 0.1


def test_points_without_a_plane_are_refused():
    """A bend still on the line, and ends that are one point, are told apart."""
    start, end = _ends()
    with pytest.raises(ValueError, match="bend lies on the straight line"):
        plane(initial(start, end, 1))
    with pytest.raises(ValueError, match="ends are the same point"):
        plane([start, end, start])
    with pytest.raises(ValueError, match="no bend 2"):
        plane(initial(start, end, 1), bend=2)


def test_misfits_are_named():
    """Ends that lack a parameter or differ in shape, and a place outside the curve, are refused."""
    start, end = _ends()
    lacking = {n: v for n, v in end.items() if n != "last.bias"}
    with pytest.raises(ValueError, match=r"does not fit the model: missing: last\.bias"):
        initial(start, lacking, 1)
    with pytest.raises(ValueError, match=r"of another shape: last\.bias \(3, in the model 2\)"):
        initial(start, {**end, "last.bias": torch.zeros(3)}, 1)
    with pytest.raises(ValueError, match=r"t in \[0, 1\]"):
        coefficients("bezier", 1, 1.5)
