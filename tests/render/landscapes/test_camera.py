"""Where the camera stands, and where things then are in the picture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.text import Text

from lsengine import render
from lsengine.looks import Look
from lsengine.render.html import interactive
from lsengine.render.landscapes import lit, shaded
from lsengine.render.landscapes.camera import Camera, chosen, direction, fitted_view, turning_view
from lsengine.render.request import validated
from lsengine.surface import cells
from lsengine.surface.quantities import describe
from tests.support.landscapes import bowl, cliffs, make_plane
from tests.support.pictures import pixels, words

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


def steep(a, b):
    """Return a hollow whose wall hides its bottom from the usual place."""
    return 10.0 * (1.0 - np.exp(-((np.hypot(a, b) / 0.55) ** 2)))


def aside(a, b):
    """Return the same, with its bottom away from the centre."""
    return steep(a + 0.3, b - 0.2)


def walled(a, b):
    """Return a bowl with a ridge before it, seen from the usual place."""
    return 4 * (a**2 + b**2) + 6 * np.exp(-(((a - b - 0.9) / 0.25) ** 2))


BOWLS = [(bowl, (0.0, 0.0)), (steep, (0.0, 0.0)), (aside, (-0.3, 0.2)), (walled, (0.0, 0.0))]


def sees(f, lowest, eye, span, relief=0.62):
    """Whether nothing of a landscape is on the straight way from an eye to a place, step by step.

    The landscape is the function itself, over a base 1 wide; the eye is in units of the base.
    """
    for share in np.linspace(0.004, 1, 4000):
        a, b = (
            (2 * (1 - share) * (at + 1) / 2 + 2 * share * e - 1)
            for at, e in zip(lowest, eye, strict=False)
        )
        if max(abs(a), abs(b)) > 1:
            return True
        bottom = relief * (f(*lowest) - span[0]) / (span[1] - span[0])
        height = (1 - share) * bottom + share * eye[2]
        if height < relief * (f(a, b) - span[0]) / (span[1] - span[0]) - 0.004:
            return False
    return True


def surface_of(f):
    """Return a plane so fine that it is the function."""
    return make_plane(f, 81, 81)


def test_the_usual_place_hides_the_bottom_of_some_bowls():
    """Else there would be nothing to choose."""
    request = validated([surface_of(steep)], "surface", Look(style="lit", scale="linear"))
    usual = replace(request, look=replace(request.look, azimuth=-56.0, elevation=32.0))
    _, panels, (view,) = lit._composed(usual, turns=False)
    assert not sees(steep, (0.0, 0.0), view.position, panels[0].terrain.scale.span)


@pytest.mark.parametrize(("f", "lowest"), BOWLS)
def test_the_lowest_cell_of_a_bowl_is_seen(f, lowest):
    """Lit, by matplotlib and on a page nothing is between it and the camera."""
    surface, look = surface_of(f), Look(scale="linear")
    request = validated([surface], "surface", replace(look, style="lit"))
    _, panels, (view,) = lit._composed(request, turns=False)
    span = panels[0].terrain.scale.span
    assert sees(f, lowest, view.position, span)
    axes = render.figure([surface], kind="surface", scale="linear").axes[0]
    alpha, beta, height = shaded._eye(axes)
    low, high = axes.get_zlim()
    eye = ((alpha + 1) / 2, (beta + 1) / 2, 0.62 * (height - low) / (high - low))
    assert sees(f, lowest, eye, (low, high))
    camera = interactive._camera(
        validated([surface], "html", look), [cells.plane(surface, describe("train_loss"))]
    )
    for distance in (1.5, interactive.FARTHEST):
        eye = np.array([0.5, 0.5, 0.31]) + distance / interactive.BOX * direction(camera)
        assert sees(f, lowest, eye, span)


def test_what_is_said_of_the_camera_is_done():
    """One angle alone leaves the other to be chosen; both leave nothing."""
    calls: list[Camera] = []

    def hidden(camera: Camera) -> int:
        calls.append(camera)
        return 0 if camera.elevation > 40 else 3

    assert chosen(Look(azimuth=10.0, elevation=5.0, zoom=2.0), hidden) == Camera(
        azimuth=10.0, elevation=5.0, zoom=2.0
    )
    assert not calls
    camera = chosen(Look(azimuth=10.0), hidden)
    assert (camera.azimuth, camera.elevation) == (10.0, 41.0)
    assert chosen(Look(elevation=20.0), lambda _: 1).azimuth == Camera().azimuth


def test_nearer_places_come_first_and_the_usual_one_if_none_helps():
    """A small turn is better than a large rise."""
    turned = chosen(Look(), lambda camera: int(camera.azimuth == -56 and camera.elevation < 60))
    assert (turned.azimuth, turned.elevation) == (-46.0, 32.0)
    assert chosen(Look(), lambda _: 2) == Camera()


@pytest.mark.parametrize("style", ["default", "lit"])
def test_options_move_the_camera(style):
    """Azimuth, elevation and zoom are those of the axes, and change a lit scene."""
    look = {"azimuth": 20, "elevation": 50, "zoom": 0.7}
    usual, moved = (
        render.figure([surface_of(bowl)], kind="surface", style=style, **given)
        for given in ({}, look)
    )
    if style == "default":
        assert (moved.axes[0].azim, moved.axes[0].elev) == (20, 50)
    shares = [(np.ptp(pixels(figure), axis=-1) > 30)[:, :-80].mean() for figure in (usual, moved)]
    assert shares[1] < 0.8 * shares[0], "farther away it is smaller"


LOOKS = [
    {"azimuth": 45, "elevation": 30, "xlabel": "first", "ylabel": "second direction"},
    {"azimuth": -100, "elevation": 20},
    {"azimuth": 150, "elevation": 60},
    {"azimuth": 0, "elevation": 5},
    {"zoom": 1.4, "azimuth": -100, "elevation": 20},
    {"zoom": 1.4, "xlabel": "first direction"},
]


@pytest.mark.parametrize("style", ["paper", "lit"])
@pytest.mark.parametrize("look", LOOKS)
def test_words_are_apart_and_on_the_page(look, style, monkeypatch):
    """So are all that are drawn, whatever the camera; the names of both axes are among them."""
    figure = render.figure([make_plane(cliffs, 9, 9)], kind="surface", style=style, **look)
    drawn, draw = {}, Text.draw

    def draw_and_note(text, renderer):
        if text.get_visible() and text.get_text():
            drawn[text.get_text(), id(text)] = Text.get_window_extent(text, renderer)
        draw(text, renderer)

    monkeypatch.setattr(Text, "draw", draw_and_note)
    figure.draw_without_rendering()
    cores = [box.expanded(0.85, 0.7) for box in drawn.values()]  # letters do not fill their box
    for (text, _), box in drawn.items():
        assert min(box.x0, box.y0) >= 0, text
        assert box.x1 <= figure.bbox.width, text
        assert box.y1 <= figure.bbox.height, text
        assert box.expanded(0.85, 0.7).count_overlaps(cores) == 1, text
    shown = [text for text, _ in drawn]
    assert look.get("xlabel", r"$\alpha$") in shown
    assert look.get("ylabel", r"$\beta$") in shown


@pytest.mark.parametrize("style", ["paper", "lit"])
def test_only_a_landscape_that_is_cut_is_said_to_be(style):
    """Then the ends of its axes are in the note; zoom 1 shows all, and so does less."""
    for zoom, is_cut in ((0.8, False), (1.0, False), (1.4, True)):
        look = {"zoom": zoom, "azimuth": 45, "elevation": 60, "scale": "linear"}
        figure = render.figure([make_plane(cliffs, 9, 9)], kind="surface", style=style, **look)
        note = r"the frame cuts the landscape (zoom), which has $\alpha$ from -1 to 1"
        assert (note in words(figure)) == is_cut
