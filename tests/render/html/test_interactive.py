"""Interactive pages: what is in them; how they behave in a browser is another file's."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lsengine import render
from lsengine.errors import UsageError
from lsengine.render.html.interactive import RAISED, plain
from lsengine.surface import DONE, FAILED
from tests.support.landscapes import cliffs, make_plane
from tests.support.pictures import with_path

TYPES = {"f8": "<f8", "f4": "<f4", "u1": "u1"}


def content(html: str) -> dict[str, Any]:
    """Return what the page's script is given."""
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', html, re.S)
    assert found
    return json.loads(found[1])


def unpacked(text: str, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return an array of the page."""
    return np.frombuffer(base64.b64decode(text), dtype).reshape(shape)


def test_every_value_is_in_the_page_unrounded():
    """Hovering shows what the file holds, to the last bit, whatever is clipped or drawn."""
    surface = make_plane(cliffs, alphas=9, betas=7)
    surface.quantities["train_loss"][2, 3] = np.inf
    surface.quantities["train_loss"][2, 4] = np.nan
    surface.status[0, 0] = FAILED
    data = content(render.html_page([surface]))["surfaces"][0]
    loss = unpacked(data["values"]["train_loss"], "<f8", (7, 9))
    np.testing.assert_array_equal(loss, surface.quantities["train_loss"])
    accuracy = unpacked(data["values"]["test_accuracy"], "<f8", (7, 9))
    np.testing.assert_array_equal(accuracy, 100 * surface.quantities["test_accuracy"])
    np.testing.assert_array_equal(unpacked(data["status"], "u1", (7, 9)), surface.status)


@pytest.mark.parametrize("kind", ["linear", "log"])
def test_heights_are_shares_of_the_scale(kind):
    """The lowest tick is at its value's share, and a cell at a tick's value has its height."""
    surface = make_plane(lambda a, b: 10.0 ** (2 * a), alphas=21, betas=21)
    page = render.html_page([surface], scale=kind, limits=(0.01, 100.0))
    shown = next(q for q in content(page)["quantities"] if q["name"] == "train_loss")
    assert shown["auto"] == kind
    scale = shown["scales"][kind]
    heights = unpacked(scale["heights"][0], "<f4", (21, 21))
    loss = surface.quantities["train_loss"]
    ticks = {text: at for at, text in scale["ticks"]}
    if kind == "log":
        expected = (np.log10(loss) + 2) / 4
        assert ticks["1"] == pytest.approx(0.5)
    else:
        expected = (loss - 0.01) / 99.99
        assert ticks["40"] == pytest.approx(39.99 / 99.99)
    np.testing.assert_allclose(heights, expected, atol=1e-6)


def test_cells_to_come_have_their_neighbours_height_apart_from_the_others():
    """Done cells are in one mesh, stand-ins in another."""
    status = np.full((21, 21), DONE, np.uint8)
    status[:, 12:] = 0
    data = content(render.html_page([make_plane(status=status)]))
    scale = next(iter(data["quantities"][0]["scales"].values()))
    heights = unpacked(scale["heights"][0], "<f4", (21, 21))
    filled = unpacked(scale["filled"][0], "<f4", (21, 21))
    assert np.isfinite(heights[:, :12]).all()
    assert np.isnan(heights[:, 12:]).all()
    np.testing.assert_array_equal(filled[:, 12:], np.repeat(filled[:, [11]], 9, axis=1))
    assert np.isnan(filled[:, :10]).all()
    assert any("lighter" in line for line in data["notes"])


def test_paths_lie_on_the_surface():
    """On a plane that rises with alpha, checkpoints have the height of their alpha."""
    surface = with_path(make_plane(lambda a, b: 2 + a + 0 * b))
    data = content(render.html_page([surface], limits=(1.0, 3.0)))
    path = data["surfaces"][0]["path"]
    scale = next(iter(data["quantities"][0]["scales"].values()))
    expected = (np.array(path["alpha"]) + 1) / 2
    np.testing.assert_allclose(scale["path"][0], expected + 0.012, atol=1e-6)
    assert path["drops"].count(True) == 1


def test_marks_stand_on_the_surface_and_the_caption_has_all_their_errors():
    """Centre and other minimum are a little above their cells, in the words of other kinds."""
    surface = with_path(make_plane(lambda a, b: 2 + a + 0 * b))
    data = content(render.html_page([surface], limits=(1.0, 3.0)))
    shown = data["surfaces"][0]
    assert [m["name"] for m in shown["marks"]] == ["centre", "other minimum"]
    scale = next(iter(data["quantities"][0]["scales"].values()))
    np.testing.assert_allclose(scale["marks"][0], np.array([0.5, 1.0]) + RAISED)
    other = 100 * (1 - 0.93 * np.exp(-1))
    expected = ["test error 7.00 % at the centre", f"other minimum {other:.2f} %"]
    assert shown["about"] == expected


def test_a_large_surface_with_many_quantities_stays_small():
    """101 x 101 cells and ten quantities are under 6 MB; a second surface adds no viewer."""
    surface = make_plane(cliffs, alphas=101, betas=101)
    for index in range(8):
        noise = np.random.default_rng(index).random((101, 101))
        surface.quantities[f"quantity_{index}"] = noise
    one = len(render.html_page([surface]))
    two = len(render.html_page([surface, replace(surface, name="b", source="b.h5")]))
    viewer = len(re.search(r'id="viewer".*?</script>', render.html_page([surface]), re.S)[0])
    assert one < 6e6
    assert two - one < 1.05 * (one - viewer)


def test_names_cannot_break_out_of_the_page():
    """A surface's name is text, whatever is in it."""
    bad = "</script><script>alert(1)</script>@CODE@<b>"
    html = render.html_page([make_plane(name=bad)])
    assert "<script>alert" not in html
    assert content(html)["surfaces"][0]["name"] == bad


def test_equal_surfaces_give_equal_pages():
    """Nothing in a page is random, and no date is in it."""
    assert render.html_page([make_plane()]) == render.html_page([make_plane()])


def test_too_many_scenes_are_refused():
    """Browsers draw a limited number at once."""
    surfaces = [make_plane(name=f"s{i}") for i in range(13)]
    with pytest.raises(UsageError, match=r"13 surfaces.*at most 12.*several pages"):
        render.html_page(surfaces)


def test_a_page_without_any_value_says_what_shows_it():
    """As for the other kinds, the message counts the cells and names the heat map."""
    nothing = make_plane(lambda a, b: a * np.nan)
    del nothing.quantities["test_accuracy"]
    with pytest.raises(UsageError, match=r"441 NaN of 441 cells.*use --as heatmap"):
        render.html_page([nothing])


def test_a_page_says_when_axes_are_not_to_one_scale():
    """A strip is drawn deeper than it is; a square is not."""
    notes = [content(render.html_page([make_plane(reach=(1, y))]))["notes"] for y in (0.2, 1.0)]
    assert notes == [["axes not to one scale"], []]


def test_a_page_is_html_and_nothing_else(tmp_path):
    """The extension must say so, before anything is computed."""
    with pytest.raises(UsageError, match="allowed: html"):
        render.write([make_plane()], tmp_path / "a.png", kind="html")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("10", "10"),
        (r"$10^{-5}$", "10⁻⁵"),
        (r"$-2\times10^{12}$", "\N{MINUS SIGN}2\N{MULTIPLICATION SIGN}10¹²"),
        (r"3 cells above $10^{6}$, beyond", "3 cells above 10⁶, beyond"),
    ],
)
def test_markup_of_numbers_is_typeset(text, shown):
    """A page has no TeX."""
    assert plain(text) == shown


def test_words_that_were_asked_for_are_on_the_page():
    """Of one surface title and subtitle are its caption; names of axes, height and notes follow."""
    look = {"title": "T<b>", "subtitle": "S", "xlabel": "X", "ylabel": "Y", "zlabel": "Z"}
    page = render.html_page([make_plane(cliffs, name="mine")], **look, notes="N", zoom=2.0)
    data = content(page)
    assert "<title>T&lt;b&gt;</title>" in page
    assert (data["surfaces"][0]["name"], data["surfaces"][0]["about"]) == ("T<b>", ["S"])
    assert (data["axes"], data["said"], data["title"]) == (["X", "Y"], "N", "")
    assert [q["label"] for q in data["quantities"]] == ["Z", "test accuracy (%)"]
    assert data["camera"]["zoom"] == 2.0


def test_of_several_the_title_is_over_the_page():
    """Labels are the captions of the scenes."""
    planes = [make_plane(name="a"), make_plane(name="b")]
    data = content(render.html_page(planes, title="T", subtitle="S", labels=["one", "two"]))
    assert data["title"] == "T\nS"
    assert [s["name"] for s in data["surfaces"]] == ["one", "two"]
    assert data["surfaces"][0]["about"] == ["test error 7.00 %"]


def test_a_page_has_no_marks_if_its_style_has_none(tmp_path):
    """The centre is marked by default, and left out by `marks = false`."""
    style = tmp_path / "bare.toml"
    style.write_text("marks = false")
    for look, count in (("default", 1), (style, 0)):
        data = content(render.html_page([make_plane()], style=look))
        assert len(data["surfaces"][0]["marks"]) == count
        scale = next(iter(data["quantities"][0]["scales"].values()))
        assert len(scale["marks"][0]) == count
