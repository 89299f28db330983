"""How surfaces show themselves."""

from __future__ import annotations

import base64
import html
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

import lsengine
from lsengine.api.surface import Surface
from lsengine.errors import UsageError
from lsengine.render.style import STYLES
from tests.support.landscapes import make_curve, make_plane

PLANE, CURVE = Surface.of(make_plane(alphas=5, betas=5)), Surface.of(make_curve(alphas=5))


@pytest.mark.parametrize("surface", [PLANE, CURVE], ids=["plane", "curve"])
def test_a_figure_is_plain_and_shows_itself(surface, monkeypatch):
    """Nothing of pyplot is touched, and a notebook has a picture all the same."""
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    figure = surface.plot()
    assert type(figure) is Figure
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert surface.plot(quantity="test_accuracy").axes
    with pytest.raises(UsageError, match="quantity"):
        surface.plot(quantity="none")


def test_a_page_is_a_frame_in_a_cell(tmp_path):
    """With the whole page in it."""
    page = PLANE.page()
    (frame,) = re.findall(r'<iframe style="[^"]*" srcdoc="([^"]*)"></iframe>', page._repr_html_())
    assert html.unescape(frame) == page.html
    assert page.save(tmp_path / "x.html").read_text() == page.html
    with pytest.raises(UsageError):
        CURVE.page()


def test_a_cell_shows_a_picture_and_a_table():
    """Centre and range of each quantity; names are text."""
    text = PLANE.renamed("a<b")._repr_html_()
    assert "<b>a&lt;b</b>: 25 of 25 cells done" in text
    assert "<td>train_loss</td><td>1</td><td>1</td><td>9</td>" in text
    (picture,) = re.findall(r'src="data:image/png;base64,([^"]*)"', text)
    assert base64.b64decode(picture).startswith(b"\x89PNG")


def test_nothing_done_yet_is_a_table_alone():
    """Without numbers."""
    empty = replace(CURVE, status=np.zeros_like(CURVE.status))
    text = empty._repr_html_()
    assert "<img" not in text
    assert "0 of 5 cells done, 5 missing" in text
    assert "<td>train_loss</td><td></td><td></td><td></td>" in text


@pytest.mark.parametrize("kind", ["filled", "surface"])
def test_a_figure_is_saved_with_the_dots_of_its_style(kind, tmp_path):
    """Its own `savefig` gives the picture that `lsengine.render` does."""
    lsengine.render(PLANE, tmp_path / "a.png", kind=kind, style="paper")
    PLANE.plot(kind, style="paper").savefig(tmp_path / "b.png")
    first, second = (np.asarray(Image.open(tmp_path / name)) for name in ("a.png", "b.png"))
    assert first.shape[1] == round(300 * STYLES["paper"].width)
    assert np.array_equal(first, second)
