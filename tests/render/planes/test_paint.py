"""Marks of minima on planes and landscapes."""

from __future__ import annotations

import pytest
from matplotlib.text import Text

from lsengine import render
from tests.support.landscapes import make_plane
from tests.support.pictures import TOWARD, toward

pytestmark = pytest.mark.usefixtures("no_warning")


@pytest.mark.parametrize("kind", ["contour", "filled", "heatmap"])
def test_planes_mark_and_name_other_minima(kind):
    """Diamonds at the other two of three minima; all three have names."""
    surface = toward(make_plane(reach=(1.5, 1.5)), alpha=TOWARD, beta=TOWARD)
    figure = render.figure([surface], kind=kind)
    spots = {
        (float(line.get_xdata()[0]), float(line.get_ydata()[0]))
        for line in figure.axes[0].lines
        if line.get_marker() == "D"
    }
    assert spots == {(1.0, 0.0), (0.0, 1.0)}
    assert {"centre", "minimum 2", "minimum 3"} <= {t.get_text() for t in figure.findobj(Text)}


def test_minima_outside_the_grid_are_not_marked():
    """Only the centre is named."""
    figure = render.figure([toward(make_plane(reach=(0.5, 0.5)), alpha=TOWARD)], kind="filled")
    assert not any(line.get_marker() == "D" for line in figure.axes[0].lines)


@pytest.mark.parametrize("kind", ["contour", "filled", "heatmap", "surface"])
@pytest.mark.parametrize("base", ["default", "lit"])
def test_a_style_without_marks_leaves_all_of_them_out(kind, base, tmp_path):
    """No cross, ring or diamond, and no name; the lowest cell's value is still said of a plane."""
    surface = toward(make_plane(reach=(1.5, 1.5)), alpha=TOWARD, beta=TOWARD)
    for is_bare in (True, False):
        style = tmp_path / "mine.toml"
        marks_anything = str(not is_bare).lower()
        style.write_text(f'base = "{base}"\nmarks = {marks_anything}\ndpi = 60')
        figure = render.figure([surface], kind=kind, style=style)
        marks = {line.get_marker() for axes in figure.axes for line in axes.lines} & {*"+oD"}
        texts = {text.get_text().strip() for text in figure.findobj(Text)}
        assert (marks == set()) == is_bare
        assert ("minimum 2" not in texts) == is_bare
        assert any("lowest cell" in text for text in texts) == (kind != "surface")
        assert any("+ centre" in text for text in texts) == (kind != "surface" and not is_bare)
