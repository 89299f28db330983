"""Lit landscapes: where things are in the picture, how light falls, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image
from test_render_figures import STRANGE, words

from lsengine import render
from lsengine.errors import EnvironmentUnfit, UsageError
from lsengine.render.landscapes import lit
from lsengine.render.landscapes.camera import fitted
from lsengine.render.landscapes.mesh import monotone, relief
from lsengine.render.landscapes.vtk_scene import Landscape, Scene
from lsengine.render.request import validated
from lsengine.render.style.styles import STYLES, Camera
from lsengine.surface import DONE
from tests.support.landscapes import cliffs, make_plane
from tests.support.launchers import ROOT

UNIT = np.linspace(0, 1, 21)
BOX = np.array([(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 0.6)], dtype=float)
SKETCH = replace(STYLES["lit"], dpi=60)  # small pictures are quickly drawn


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Draw with few pixels."""
    monkeypatch.setitem(STYLES, "lit", SKETCH)


def landscape(z, **changes) -> Landscape:
    """Return a grey landscape without lines."""
    made = relief(UNIT, UNIT, z)
    parts = {"lines": np.empty(0), "floor": -0.01, "floor_lines": np.empty(0)} | changes
    grey = np.full((*made.z.shape, 3), 0.6)
    return Landscape(
        made, grey, floor_colors=np.empty((0, 3)), ink=(0,) * 3, faint=(0.55,) * 3, **parts
    )


@pytest.mark.parametrize("azimuth", [-150, -56, 20, 100])
@pytest.mark.parametrize("elevation", [5, 32, 80])
def test_a_fitted_view_has_everything_in_it_and_no_more(azimuth, elevation):
    """All corners are in the picture, and touch each of its four borders."""
    view = fitted(BOX, Camera(azimuth, elevation))
    inside = view.project(BOX)
    np.testing.assert_allclose(inside.min(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(inside.max(axis=0), (1, view.ratio), atol=1e-3)


def test_words_are_put_where_vtk_draws():
    """Our projection equals that of VTK's camera."""
    from vtkmodules.vtkRenderingCore import vtkCamera

    view, camera = fitted(BOX, Camera(-56, 32)), vtkCamera()
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
    view = fitted(BOX, Camera(), all_around=True)
    for angle in np.radians(np.arange(0, 360, 15)):
        seen = view.turned(angle).project(BOX)
        assert seen.min() > -1e-3
        assert (seen.max(axis=0) < (1.001, view.ratio + 1e-3)).all()


def test_a_spike_is_where_it_belongs():
    """The highest pixel is the projection of the highest cell."""
    z = np.zeros((21, 21))
    z[14, 5] = 0.6
    view = fitted(BOX, Camera(-56, 32))
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
    view = fitted(BOX, Camera(-56, 80))
    shares = []
    for heights in (z, holes):
        with Scene(landscape(heights), (300, round(300 * view.ratio))) as scene:
            shares.append((scene.picture(view)[..., 3] > 128).sum())
    # Three cells and their neighbours: four by four of the twenty by twenty squares.
    assert (shares[0] - shares[1]) / shares[0] == pytest.approx(16 / 400, rel=0.15)


def test_edges_have_no_halo():
    """The colour of half-covered pixels is the landscape's, not mixed with what is behind."""
    view = fitted(BOX, Camera(-56, 60))
    with Scene(landscape(np.zeros((21, 21))), (400, round(400 * view.ratio))) as scene:
        rgba = scene.picture(view).astype(int)
    inner = np.median(rgba[rgba[..., 3] == 255][:, 0])
    edge = rgba[(rgba[..., 3] > 60) & (rgba[..., 3] < 200)]
    assert len(edge) > 50
    assert abs(np.median(edge[:, 0]) - inner) < 25


def test_the_mesh_goes_through_the_cells_and_adds_no_extremum():
    """At the cells it has their heights; between two it stays between them."""
    z = np.random.default_rng(0).random((21, 21))
    made = relief(UNIT, UNIT, z)
    parts = (made.x.size - 1) // 20
    np.testing.assert_allclose(made.z[::parts, ::parts], z, atol=1e-12)
    along = made.z[::parts]
    for column in range(20):
        piece = along[:, column * parts : (column + 1) * parts + 1]
        ends = np.sort(z[:, column : column + 2], axis=1)
        assert (piece >= ends[:, :1] - 1e-12).all()
        assert (piece <= ends[:, 1:] + 1e-12).all()


@pytest.mark.parametrize("cells", [2, 3, 9])
def test_monotone_cubics_are_those_of_scipy(cells):
    """Equal to its PCHIP, in rows with plateaus and turns, on uneven axes."""
    from scipy.interpolate import PchipInterpolator

    random = np.random.default_rng(cells)
    at, rows = np.sort(random.random(cells)), random.normal(size=(5, cells))
    rows[0, 1:3] = rows[0, 0]
    fine = np.linspace(at[0], at[-1], 101)
    expected = PchipInterpolator(at, rows, axis=1)(fine)
    np.testing.assert_allclose(monotone(at, rows, fine), expected, atol=1e-12)


def test_a_pit_sees_less_sky_than_a_plain():
    """A plain sees all of it; the bottom of a pit what its walls leave."""
    plain = relief(UNIT, UNIT, np.zeros((21, 21)))
    np.testing.assert_allclose(plain.sky, 1)
    pit = np.full((21, 21), 0.4)
    pit[8:13, 8:13] = 0.0
    sky = relief(UNIT, UNIT, pit).sky
    middle = sky[sky.shape[0] // 2, sky.shape[1] // 2]
    assert 0.05 < middle < 0.5
    assert sky[0, 0] == pytest.approx(1)


def test_heights_are_held_to_the_limits_and_it_says_so():
    """Values beyond the scale are flat tops; the note counts them."""
    figure = render.figure([make_plane(cliffs)], kind="surface", style="lit", limits=(0.1, 50.0))
    count = int((make_plane(cliffs).quantities["train_loss"] > 50).sum())
    assert f"{count} cells above 50" in words(figure)


def test_the_same_landscape_twice_has_the_same_bytes(tmp_path):
    """Nothing in a lit picture is random."""
    for name in ("a", "b"):
        render.write([make_plane(cliffs)], tmp_path / f"{name}.png", kind="surface", style="lit")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("azimuth", [-56, -38, 25])
def test_words_of_the_axes_lie_outside_the_floor(azimuth):
    """Nothing of the scene is under the box of a word, and no two boxes meet.

    Both ends of each axis are printed.
    """
    style = replace(SKETCH, lines="both", camera=Camera(azimuth, 27))
    request = replace(
        validated([make_plane()], "surface", None, (None, "lit"), (None, None)), style=style
    )
    figure = lit.draw(request)
    panel = figure.axes[0]
    renderer, image = figure.canvas.get_renderer(), np.asarray(panel.images[0].get_array())
    page_box, boxes = panel.get_window_extent(), {}
    numbers = {"\N{MINUS SIGN}1", "\N{MINUS SIGN}0.5", "0.0", "0.5", "1", r"$\alpha$", r"$\beta$"}
    for word in panel.findobj(Text):
        if word.get_text() in numbers:
            boxes[word] = word.get_window_extent(renderer)
    texts = [word.get_text() for word in boxes]
    assert texts.count("1") == texts.count("\N{MINUS SIGN}1") == 2
    for bounds in boxes.values():
        x = (np.array([bounds.x0, bounds.x1]) - page_box.x0) / page_box.width * image.shape[1]
        y = (page_box.y1 - np.array([bounds.y1, bounds.y0])) / page_box.height * image.shape[0]
        (left, right), (top, low) = np.round(x).astype(int), np.round(y).astype(int)
        assert (image[max(top, 0) : max(low, 0), max(left, 0) : max(right, 0), 3] == 0).all()
        assert not any(bounds.overlaps(b) for b in boxes.values() if b is not bounds)


def test_backs_of_the_landscape_are_not_black():
    """Seen from below, its colour is at least a third of what it is from above."""
    view = fitted(BOX, Camera(-56, 60))
    with Scene(landscape(np.zeros((21, 21))), (200, round(200 * view.ratio))) as scene:
        shown = [scene.picture(v) for v in (view, replace(view, toward=view.toward * [1, 1, -1]))]
    above, below = (np.median(s[s[..., 3] == 255][:, :3]) for s in shown)
    assert below > above / 3


LIT = ("constant", "negative", "one row", "two by two", "all NaN", "inf outside", "chequered")


@pytest.mark.parametrize(
    ("name", "look", "filled"),
    [
        *((name, {"kind": "surface", "style": "lit"}, name == "chequered") for name in LIT),
        *((name, {"kind": "html"}, True) for name in STRANGE),
    ],
)
def test_strange_surfaces_give_a_picture_or_a_clear_message(name, look, filled, tmp_path):
    """No surface whatever gives a traceback, lit or as a page, whole or being written."""
    path = tmp_path / ("a.html" if look["kind"] == "html" else "a.png")
    message = ""
    try:
        render.write([STRANGE[name]], path, filled=filled, **look)
    except UsageError as error:
        message = str(error)
    if message:
        assert name not in ("two by two", "constant", "negative"), message
        assert "use --as heatmap" in message
    else:
        assert path.stat().st_size > 3000


def test_a_partial_landscape_stands_in_or_stays_open(plane):
    """Missing cells are open in a picture, lighter in one of a run that goes on."""
    status = np.full((21, 21), DONE, np.uint8)
    status[:10, :10] = 0
    surface = plane(status=status)
    opened = render.figure([surface], kind="surface", style="lit")
    stood = render.figure([surface], kind="surface", style="lit", filled=True)
    assert "(left open)" in words(opened)
    assert "lighter: the nearest cell's value stands in" in words(stood)
    seen = [
        (np.asarray(f.axes[0].images[0].get_array())[..., 3] > 0).mean() for f in (opened, stood)
    ]
    assert seen[1] > 1.1 * seen[0]


def test_a_transparent_ground_is_transparent(tmp_path):
    """Where nothing is drawn, the picture has no colour; its words and surface have."""
    style = tmp_path / "s.toml"
    style.write_text('base = "lit"\ntransparent = true\n')
    render.write([make_plane()], tmp_path / "a.png", kind="surface", style=style)
    alpha = np.asarray(Image.open(tmp_path / "a.png"))[..., 3]
    assert alpha[0, 0] == 0
    assert (alpha == 0).mean() > 0.3
    assert (alpha == 255).mean() > 0.2


def test_floor_lines_lie_on_the_floor(tmp_path):
    """With them, coloured pixels appear below the landscape."""
    pictures = {}
    for lines in ("none", "floor"):
        style = tmp_path / f"{lines}.toml"
        style.write_text(f'base = "lit"\nlines = "{lines}"\n')
        figure = render.figure([make_plane()], kind="surface", style=style)
        pictures[lines] = (np.asarray(figure.axes[0].images[0].get_array())[..., 3] > 0).mean()
    assert pictures["floor"] != pictures["none"]


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


COMMAND = """
import sys
sys.path.insert(0, {tests!r})
{before}
from tests.support.landscapes import make_plane
from lsengine.report import inputs
inputs.read = lambda paths, kind: [make_plane()]
from lsengine.cli import main
sys.exit(main(["render", "x.h5", "--output", {output!r}, *{options!r}]))
"""


@pytest.mark.parametrize(
    ("library", "options", "suffix"),
    [
        ("vtkmodules", ["--as", "surface", "--style", "lit"], "png"),
        ("plotly", ["--as", "html"], "html"),
    ],
)
def test_a_missing_library_is_named_with_the_command_that_installs_it(
    tmp_path, library, options, suffix
):
    """Exit code 3, one line, no traceback, and no file."""
    output = tmp_path / f"a.{suffix}"
    before = f"sys.modules[{library!r}] = None"
    parts = {"tests": str(ROOT), "output": str(output), "options": options}
    done = run(COMMAND.format(before=before, **parts))
    assert done.returncode == EnvironmentUnfit.exit_code, done.stderr
    assert "pip install 'lsengine[" in done.stderr
    assert "Traceback" not in done.stderr
    assert not output.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="drivers are found like this on Linux")
def test_a_machine_without_opengl_is_told_what_to_install(tmp_path):
    """VTK would end the process; instead there is one line and exit code 3."""
    parts = {"tests": str(ROOT), "output": str(tmp_path / "a.png")}
    options = ["--as", "surface", "--style", "lit"]
    code = COMMAND.format(before="", options=options, **parts)
    done = run(code, __EGL_VENDOR_LIBRARY_DIRS="/nonexistent", DISPLAY="")
    assert done.returncode == EnvironmentUnfit.exit_code, done.stderr
    assert "needs OpenGL" in done.stderr
    assert "--style default" in done.stderr
