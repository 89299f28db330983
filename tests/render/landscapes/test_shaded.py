"""Landscapes: where the scale cuts them, and marks, hidden or not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from mpl_toolkits.mplot3d.proj3d import proj_transform

from lsengine import render
from lsengine.looks import said
from lsengine.render.landscapes import lit, shaded
from lsengine.render.landscapes.terrain import terrains
from lsengine.render.request import validated
from lsengine.render.style import STYLES
from tests.support.landscapes import make_plane
from tests.support.pictures import words

NOTE = "pale marks lie behind the surface"


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Draw with few pixels."""
    monkeypatch.setitem(STYLES, "lit", replace(STYLES["lit"], dpi=60))


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


@pytest.mark.parametrize("style", ["default", "lit"])
def test_a_slope_leaves_the_scale_where_it_meets_its_end(style):
    """A loss of 2 + alpha passes 2.33 at alpha = 0.33; the next cell is at 0.4."""
    look: dict[str, Any] = {"scale": "linear", "limits": (1.0, 2.33), "style": style}
    surface = make_plane(lambda a, b: 2 + a + 0 * b, 21, 21)
    (terrain,) = terrains(validated([surface], "surface", said(look)))
    np.testing.assert_allclose(terrain.heights.max(), 2.33)
    if style == "lit":
        mesh = lit._landscape(terrain).mesh
        alpha, height = 2 * mesh.x - 1, 1.0 + 1.33 * mesh.z[0] / terrain.request.style.relief
    else:
        (quads,) = render.figure([surface], kind="surface", **look).axes[0].collections
        any_quads: Any = quads
        alpha, _, height = np.reshape(any_quads._faces, (-1, 3)).T
    np.testing.assert_allclose(height, np.minimum(2 + alpha, 2.33), atol=1e-6)
