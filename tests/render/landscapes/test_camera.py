"""Where the camera stands, and where things then are in the picture."""

from __future__ import annotations

import numpy as np
import pytest

from lsengine.render.landscapes.camera import fitted_view, turning_view
from lsengine.render.style import Camera

BOX = np.array([(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 0.6)], dtype=float)


@pytest.mark.parametrize("azimuth", [-150, -56, 20, 100])
@pytest.mark.parametrize("elevation", [5, 32, 80])
def test_a_fitted_view_has_everything_in_it_and_no_more(azimuth, elevation):
    """All corners are in the picture, and touch each of its four borders."""
    view = fitted_view(BOX, Camera(azimuth=azimuth, elevation=elevation))
    inside = view.project(BOX)
    np.testing.assert_allclose(inside.min(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(inside.max(axis=0), (1, view.ratio), atol=1e-3)


def test_words_are_put_where_vtk_draws():
    """Our projection equals that of VTK's camera."""
    from vtkmodules.vtkRenderingCore import vtkCamera

    view, camera = fitted_view(BOX, Camera(azimuth=-56, elevation=32)), vtkCamera()
    camera.SetPosition(*view.position)
    camera.SetFocalPoint(*view.focal)
    camera.SetViewUp(0, 0, 1)
    camera.SetViewAngle(view.angle)
    width, height = 1000, round(1000 * view.ratio)
    matrix = camera.GetCompositeProjectionTransformMatrix(width / height, -1, 1)
    flat = np.array([matrix.MultiplyPoint((*point, 1.0)) for point in BOX])
    expected = (flat[:, :2] / flat[:, 3:] + 1) / 2 * (1, height / width)
    np.testing.assert_allclose(view.project(BOX), expected, atol=1e-3)


def test_a_turning_landscape_never_leaves_the_picture():
    """From every side all corners are in it."""
    view = turning_view(BOX, Camera())
    for angle in np.radians(np.arange(0, 360, 15)):
        seen = view.turned(angle).project(BOX)
        assert seen.min() > -1e-3
        assert (seen.max(axis=0) < (1.001, view.ratio + 1e-3)).all()
