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

from lsengine import render
from lsengine.errors import EnvironmentUnfit, UsageError
from lsengine.external import installation
from lsengine.looks import Look
from lsengine.render.landscapes import lit
from lsengine.render.request import validated
from lsengine.render.style import STYLES
from lsengine.surface import DONE
from tests.support.landscapes import cliffs, make_plane
from tests.support.launchers import ROOT
from tests.support.pictures import STRANGE, words

SKETCH = replace(STYLES["lit"], dpi=60)  # small pictures are quickly drawn


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Draw with few pixels."""
    monkeypatch.setitem(STYLES, "lit", SKETCH)


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
    look = Look(style="lit", azimuth=azimuth, elevation=27)
    style = replace(SKETCH, lines="both")
    request = replace(validated([make_plane()], "surface", look), style=style)
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
    assert installation.install("").removesuffix("]'") in done.stderr
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
