"""Marks in landscapes: what hides them, and what they then look like."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from mpl_toolkits.mplot3d.proj3d import proj_transform
from test_render_figures import words

from lsengine import render
from lsengine.render.landscapes import shaded
from lsengine.render.landscapes.mesh import LIFT, above, clearance, hidden
from lsengine.render.style.styles import STYLES
from tests.support.landscapes import make_plane

UNIT = np.linspace(0, 1, 41)
EYE = np.array([0.5, -3.0, 1.6])
NOTE = "pale marks lie behind the surface"


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Draw with few pixels."""
    monkeypatch.setitem(STYLES, "lit", replace(STYLES["lit"], dpi=60))


def hills(seed: int) -> np.ndarray:
    """Return a smooth random landscape; (Y, X)."""
    waves = np.random.default_rng(seed).normal(size=(3, 3, 2))
    turns = 2 * np.pi * np.arange(3)[:, None] * UNIT
    parts = np.stack([np.cos(turns), np.sin(turns)])
    z = np.einsum("jis,sjy,six->yx", waves, parts, parts)
    return 0.5 * (z - z.min()) / np.ptp(z)


def crosses_triangle(start: np.ndarray, z: np.ndarray) -> bool:
    """Whether the way to `EYE` meets one of the mesh's triangles (Moeller and Trumbore 1997)."""
    x, y = np.meshgrid(UNIT, UNIT)
    mesh = np.stack([x, y, z], axis=-1)
    a, b, c, d = mesh[:-1, :-1], mesh[:-1, 1:], mesh[1:, 1:], mesh[1:, :-1]
    corners = np.concatenate(
        [np.stack(t, axis=2).reshape(-1, 3, 3) for t in ((a, b, c), (a, c, d))]
    )
    one, two = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    way = EYE - start
    across = np.cross(way, two)
    size = (one * across).sum(axis=1)
    rest = start - corners[:, 0]
    u = (rest * across).sum(axis=1) / size
    beyond = np.cross(rest, one)
    v, t = beyond @ way / size, (two * beyond).sum(axis=1) / size
    return bool(((u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0) & (t < 1)).any())


def test_what_is_hidden_is_what_triangles_hide():
    """On random hills it is as for a ray through every triangle, but for hair's breadths."""
    random = np.random.default_rng(1)
    agree, behind = [], []
    for seed in range(4):
        z = hills(seed)
        at = random.uniform(0.02, 0.98, (80, 2))
        points = np.column_stack([at, above(UNIT, UNIT, z, at)])
        found = hidden(UNIT, UNIT, z, points, EYE)
        expected = [crosses_triangle(point, z) for point in points + np.array([0, 0, LIFT])]
        agree += list(found == expected)
        behind += expected
    assert 0.1 < np.mean(behind) < 0.9
    assert np.mean(agree) > 0.99


def test_a_hole_hides_nothing():
    """Behind a wall a point is hidden; through a hole in the wall it is seen."""
    z = 0.4 * np.exp(-(((UNIT[:, None] - 0.4) / 0.08) ** 2)) + 0 * UNIT
    point = np.array([[0.5, 0.6, 0.0]])
    assert hidden(UNIT, UNIT, z, point, EYE).all()
    z[8:24, 15:26] = np.nan
    assert not hidden(UNIT, UNIT, z, point, EYE).any()


def test_a_wall_hides_its_own_other_side():
    """What is marked on top of a slope that falls away from the eye is not to be seen."""
    steep = np.array([0.5, 0.5, 0.25])
    for sign, seen in ((1, True), (-1, False)):
        z = 0.25 + sign * 0.9 * (UNIT[:, None] - 0.5) + 0 * UNIT
        assert hidden(UNIT, UNIT, z, steep[None], EYE).all() != seen


def test_clearance_is_where_the_rim_comes_into_sight():
    """Behind a sharp wall it follows from similar triangles."""
    z = np.zeros((41, 41))
    z[16] = 0.3  # at 0.4
    point = np.array([0.5, 0.7, 0.0])
    expected = 0.3 + (0.3 - EYE[2]) / (0.4 - EYE[1]) * (0.7 - 0.4)
    assert clearance(UNIT, UNIT, z, point, EYE) == pytest.approx(expected, abs=0.01)


def test_the_eye_is_where_matplotlib_looks_from():
    """All points between it and a point of the plane are one point of the picture."""
    axes: Any = render.figure([make_plane()], kind="surface").axes[0]
    eye, point = shaded._eye(axes), np.array([0.3, -0.4, 2.0])
    shares = np.array([0.0, 0.3, 0.6])[:, None]
    x, y, _ = proj_transform(*(point + shares * (eye - point)).T, axes.get_proj())
    assert np.ptp(x) < 1e-6
    assert np.ptp(y) < 1e-6


def pit(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return a plain with a deep and narrow pit at the centre."""
    return 10.0 - 9.5 * np.exp(-((np.hypot(a, b) / 0.15) ** 2))


@pytest.mark.parametrize("style", ["default", "lit"])
def test_a_mark_behind_the_surface_is_pale_and_said_to_be(style):
    """At the bottom of a pit the centre is pale below a dotted line; on a slope it is as ever."""
    for f, is_behind in ((pit, True), (lambda a, b: 2 + b + 0 * a, False)):
        figure = render.figure([make_plane(f, 41, 41)], kind="surface", style=style, scale="linear")
        lines = figure.axes[0].lines
        marks = [line for line in lines if line.get_marker() == "+"]
        dotted = [
            line
            for line in lines
            if line.get_linestyle() != "-" and line.get_marker() == "None" and line.get_visible()
        ]
        assert len(marks) == 2
        assert all((mark.get_alpha() in (None, 1.0)) != is_behind for mark in marks)
        assert len(dotted) == is_behind
        assert (NOTE in words(figure)) == is_behind
        if is_behind:
            foot = [np.ravel(part)[0] for part in marks[0].get_data()]
            (x, y), up = dotted[0].get_data(), 0.0
            if style == "default":
                x, y, up = dotted[0].get_data_3d()
                assert up[1] > up[0] + 1
                np.testing.assert_allclose((x, y), 0, atol=1e-12)
            else:
                np.testing.assert_allclose((x[0], y[0]), foot)
                assert abs(x[1] - x[0]) < 0.01 < y[1] - y[0]
