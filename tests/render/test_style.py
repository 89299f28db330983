"""Styles: what files change, how mistakes in them are told, and scales that a style asks for."""

from __future__ import annotations

import os

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.contour import QuadContourSet
from PIL import Image

from lsengine import render
from lsengine.errors import UsageError
from lsengine.render.page import scales
from lsengine.render.style import STYLES, find
from lsengine.surface.quantities import describe
from tests.support.landscapes import cliffs, make_curve, make_plane
from tests.support.pictures import contours, words


def written(tmp_path, text: str):
    """Return a style file."""
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return path


def test_an_empty_file_is_the_default_style(tmp_path):
    """What is not said is as in the base."""
    style, default = find(written(tmp_path, "")), STYLES["default"]
    assert style.name == "mine"
    for field in ("width", "wide", "rc", "colormap", "ink", "ground", "look"):
        assert getattr(style, field) == getattr(default, field)


def test_every_key_is_heard(tmp_path):
    """Page, letters, colours, scale and camera are as the file says."""
    text = """
        base = "dark"
        colormap = "magma"
        scale = "linear"
        levels = 5
        limits = [0, 40]
        width = 4
        dpi = 77
        font = "DejaVu Serif"
        font_size = 7
        ink = "#00ff00"
        background = "#000080"
        relief = 0.4
        [camera]
        azimuth = 10
        elevation = 50
        zoom = 0.8
    """
    path = written(tmp_path, text)
    figure = render.figure([make_plane(cliffs)], kind="filled", style=path)
    assert figure.get_figwidth() == 4
    assert figure.get_facecolor()[:3] == to_rgb("#000080")
    axes = figure.axes[0]
    assert axes.xaxis.label.get_fontsize() == 7
    assert axes.xaxis.label.get_fontname() == "DejaVu Serif"
    assert axes.xaxis.label.get_color() == "#00ff00"
    drawn = contours(figure, filled=True)
    assert drawn.cmap.name == "magma"
    assert (drawn.levels[0], drawn.levels[-1]) == (0, 40)
    assert len(drawn.levels) <= 7
    landscape = render.figure([make_plane(cliffs)], kind="surface", style=path).axes[0]
    assert (landscape.azim, landscape.elev) == (10, 50)
    output = render.write([make_plane(cliffs)], tmp_path / "a.png", kind="heatmap", style=path)
    assert Image.open(output).width == 4 * 77


def test_the_command_is_stronger_than_the_file(tmp_path):
    """Scale, levels and limits given with the command are taken."""
    path = written(tmp_path, 'scale = "log"\nlimits = [1, 2]')
    figure = render.figure(
        [make_plane(cliffs)], kind="filled", style=path, scale="linear", limits=(0.0, 9.0)
    )
    drawn = contours(figure, filled=True)
    assert (drawn.levels[0], drawn.levels[-1]) == (0, 9)


def test_levels_of_ones_own_are_drawn_as_they_are(tmp_path):
    """Unround ones, too, on every scale and from a style file; the scale ends with them."""
    wanted = (0.1, 0.6, 2.0, 7.0)
    path = written(tmp_path, "levels = [0.1, 0.6, 2.0, 7.0]")
    for more in ({"levels": wanted}, {"style": path}, {"levels": wanted, "scale": "linear"}):
        drawn = contours(render.figure([make_plane(cliffs)], kind="filled", **more), filled=True)
        kind = more.get("scale", "log")
        found = 10 ** np.array(drawn.levels) if kind == "log" else drawn.levels
        assert tuple(found) == pytest.approx(wanted)
        assert drawn.extend == "max"
    equal = render.figure([make_plane(cliffs)], kind="filled", levels=wanted, scale="quantile")
    assert np.ptp(np.diff(contours(equal, filled=True).levels)) == 0
    for kind in ("contour", "heatmap", "surface"):
        assert render.figure([make_plane(cliffs)], kind=kind, levels=wanted).axes


def test_limits_and_levels_of_ones_own_do_not_go_together(tmp_path):
    """Both say where the scale ends; of command and style file the command is stronger."""
    plane, wanted = make_plane(cliffs), (1.0, 2.0, 7.0)
    with pytest.raises(UsageError, match="both limits and levels say where the scale ends"):
        render.figure([plane], kind="filled", levels=wanted, limits=(0, 1))
    with pytest.raises(UsageError, match="the scale starts at -1, which a log scale cannot show"):
        render.figure([plane], kind="filled", levels=(-1, 2), scale="log")
    path = written(tmp_path, "levels = [1, 2, 7]")
    drawn = render.figure([plane], kind="filled", style=path, limits=(0.0, 9.0), scale="linear")
    assert contours(drawn, filled=True).levels[-1] == 9
    path = written(tmp_path, "limits = [0, 9]")
    drawn = render.figure([plane], kind="filled", style=path, levels=wanted, scale="linear")
    assert tuple(contours(drawn, filled=True).levels) == wanted


def test_a_style_file_serves_every_kind(tmp_path):
    """One file for all figures of a paper, lit landscapes among them."""
    path = written(tmp_path, 'base = "paper"\nlit = true\ndpi = 60')
    for kind in ("contour", "filled", "heatmap", "surface"):
        figure = render.figure([make_plane()], kind=kind, style=path)
        assert figure.get_figwidth() == STYLES["paper"].width
    assert render.figure([make_curve()], kind="curve", style=path).axes


def test_all_mistakes_are_told_at_once(tmp_path):
    """Each with its key, what was found, what is allowed, and a guess at what was meant."""
    text = """
        base = "papper"
        colormap = "virdis"
        colour = "red"
        levels = 1.5
        limits = [3, 2]
        lit = "yes"
        marks = 1
        lines = "flor"
        ink = "blackish"
        font = "DejaVu San"
        camera = 3
        [turntable]
        frame = 3
    """
    with pytest.raises(UsageError) as caught:
        find(written(tmp_path, text))
    message = str(caught.value)
    assert "mine.toml: 12 problem(s)" in message
    for line in (
        "base: got 'papper'; expected default, paper, dark, lit; did you mean \"paper\"?",
        "colormap: got 'virdis'; expected the name of a colour map of matplotlib's; did you mean",
        "colour: unknown key",
        "levels: got 1.5; expected an integer from 2 to 100",
        "limits: got [3, 2]; expected two numbers, the lower first",
        "lit: got 'yes'; expected true or false",
        "marks: got 1; expected true or false",
        'did you mean "floor"?',
        "ink: got 'blackish'; expected a colour",
        'did you mean "DejaVu Sans"?',
        "camera: got 3; expected a table with azimuth, elevation, zoom",
        'turntable.frame: unknown key; did you mean "frames"?',
    ):
        assert line in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"base = ", "is no TOML"),
        (b"\xff\xfe", "is no TOML"),
        (b"levels = " + b"9" * 5000, "is no TOML"),
        (b"levels = " + b"[" * 5000, "is no TOML"),
    ],
)
def test_unreadable_files_are_refused(tmp_path, content, message):
    """Missing, not TOML, not text: one line each."""
    path = tmp_path / "a.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        find(path)


def test_every_level_of_a_quantile_scale_has_as_many_cells():
    """Between one contour and the next lie equally many cells, basin and cliffs alike."""
    surface = make_plane(cliffs, alphas=51, betas=51)
    figure = render.figure([surface], kind="filled", scale="quantile", levels=11)
    bar = figure.axes[-1]
    loss = surface.quantities["train_loss"]
    levels = scales.choose(loss.ravel(), describe("train_loss"), "quantile", 11, None).levels
    counts = np.histogram(loss, levels)[0]
    assert levels[0] <= loss.min()
    assert levels[-1] >= loss.max()
    assert len(levels) == 11
    assert counts.sum() == loss.size
    assert np.abs(counts / loss.size - 0.1).max() < 0.035  # levels are round
    assert bar.get_ylabel() == "training loss"


def test_quantile_contours_are_at_their_values(plane):
    """The line of a level passes where the surface has that value."""
    surface = plane(lambda a, b: 1 + 4 * np.hypot(a, b), alphas=101, betas=101)
    drawn = contours(render.figure([surface], kind="contour", scale="quantile"))
    assert isinstance(drawn, QuadContourSet)
    scale_levels = np.sort(
        [float(np.hypot(*p.vertices.T).mean()) for p in drawn.get_paths() if len(p)]
    )
    text = words(render.figure([surface], kind="filled", scale="quantile"))
    assert len(scale_levels) > 6
    assert np.all(np.diff(scale_levels) > 0)
    assert "training loss" in text
    for path in drawn.get_paths():
        radius = np.hypot(*path.vertices.T)
        value = 1 + 4 * radius
        assert np.ptp(value) < 0.03


def test_limits_of_a_quantile_scale_are_its_ends():
    """Beyond them cells are counted as beyond the scale."""
    surface = make_plane(cliffs)
    figure = render.figure([surface], kind="filled", scale="quantile", limits=(0.5, 20.0))
    count = int((surface.quantities["train_loss"] > 20).sum())
    assert f"{count} cells above 20" in words(figure)
    assert contours(figure, filled=True).extend == "both"


def test_a_style_file_without_end_is_not_read_whole(tmp_path):
    """A file of 2^40 bytes that takes no room on the disk."""
    with (tmp_path / "large.toml").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(UsageError, match="it has more than 16,384 bytes"):
        find(str(tmp_path / "large.toml"))


def test_a_style_that_is_no_file_is_not_waited_for(tmp_path):
    """A FIFO would keep whoever reads it."""
    os.mkfifo(tmp_path / "style.toml")
    with pytest.raises(UsageError, match="is a FIFO; expected a style file"):
        find(tmp_path / "style.toml")


def test_a_picture_of_too_many_dots_is_refused(tmp_path):
    """Each number alone is allowed; together they would take gigabytes."""
    path = tmp_path / "large.toml"
    path.write_text("width = 40\nheight = 40\ndpi = 1200\n")
    with pytest.raises(
        UsageError, match=r"dpi 1200 makes pictures of [0-9,]+ dots; allowed are 15,"
    ):
        find(path)
    path.write_text("dpi = 1200\n")
    assert find(path).dpi == 1200


def test_messages_of_a_style_file_are_short(tmp_path):
    """However long its keys and values are."""
    path = tmp_path / "long.toml"
    path.write_text(f'{"k" * 5000} = 1\nbase = "{"x" * 5000}"\n')
    with pytest.raises(UsageError, match="2 problem") as caught:
        find(path)
    assert len(str(caught.value)) < 2000
    path.write_text("".join(f"k{i} = 1\n" for i in range(1500)))
    with pytest.raises(UsageError, match=r"(?s)1500 problem.*and 1,450 more") as caught:
        find(path)
    assert str(caught.value).count("\n") == 51
