"""Scenes that VTK draws: where things are in them, and how light falls."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest

from lsengine.render.landscapes.camera import Camera, fitted_view
from lsengine.render.landscapes.mesh import smooth_mesh
from lsengine.render.landscapes.vtk_scene import Landscape, Scene
from tests.support.launchers import ROOT

UNIT = np.linspace(0, 1, 21)
BOX = np.array([(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 0.6)], dtype=float)


def landscape(z, **changes) -> Landscape:
    """Return a grey landscape without lines."""
    mesh = smooth_mesh(UNIT, UNIT, z)
    parts = {"lines": np.empty(0), "floor": -0.01, "floor_lines": np.empty(0)} | changes
    grey = np.full((*mesh.z.shape, 3), 0.6)
    return Landscape(
        mesh=mesh,
        colors=grey,
        floor_colors=np.empty((0, 3)),
        ink=(0,) * 3,
        faint=(0.55,) * 3,
        **parts,
    )


def test_a_spike_is_where_it_belongs():
    """The highest pixel is the projection of the highest cell."""
    z = np.zeros((21, 21))
    z[14, 5] = 0.6
    view = fitted_view(BOX, Camera(azimuth=-56, elevation=32))
    size = 600, round(600 * view.ratio)
    with Scene(landscape(z), size) as scene:
        alpha = scene.picture(view)[..., 3]
    rows, columns = np.nonzero(alpha > 128)
    top = rows.min()
    expected = view.project(np.array([UNIT[5], UNIT[14], 0.6])) * size[0]
    assert abs(size[1] - top - expected[1]) < 6
    assert abs(columns[rows == top].mean() - expected[0]) < 3


def test_a_hole_shows_the_ground_behind():
    """Where cells have no value nothing is drawn, and only there."""
    z = np.zeros((21, 21))
    holes = z.copy()
    holes[9:12, 9:12] = np.nan
    view = fitted_view(BOX, Camera(azimuth=-56, elevation=80))
    shares = []
    for heights in (z, holes):
        with Scene(landscape(heights), (300, round(300 * view.ratio))) as scene:
            shares.append((scene.picture(view)[..., 3] > 128).sum())
    # Three cells and their neighbours: four by four of the twenty by twenty squares.
    assert (shares[0] - shares[1]) / shares[0] == pytest.approx(16 / 400, rel=0.15)


def test_edges_have_no_halo():
    """The colour of half-covered pixels is the landscape's, not mixed with what is behind."""
    view = fitted_view(BOX, Camera(azimuth=-56, elevation=60))
    with Scene(landscape(np.zeros((21, 21))), (400, round(400 * view.ratio))) as scene:
        rgba = scene.picture(view).astype(int)
    inner = np.median(rgba[rgba[..., 3] == 255][:, 0])
    edge = rgba[(rgba[..., 3] > 60) & (rgba[..., 3] < 200)]
    assert len(edge) > 50
    assert abs(np.median(edge[:, 0]) - inner) < 25


def test_backs_of_the_landscape_are_not_black():
    """Seen from below, its colour is at least a third of what it is from above."""
    view = fitted_view(BOX, Camera(azimuth=-56, elevation=60))
    with Scene(landscape(np.zeros((21, 21))), (200, round(200 * view.ratio))) as scene:
        shown = [scene.picture(v) for v in (view, replace(view, toward=view.toward * [1, 1, -1]))]
    above, below = (np.median(s[s[..., 3] == 255][:, :3]) for s in shown)
    assert below > above / 3


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
def test_a_network_can_be_trained_after_a_lit_picture():
    """Triton's compiler, which optimisers import, and that of drawing in software go together."""
    code = (
        "from lsengine import render\n"
        "from tests.support.landscapes import make_plane\n"
        "render.figure([make_plane(alphas=3, betas=3)], kind='surface', style='lit')\n"
        "import triton\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=ROOT)
