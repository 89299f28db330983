"""Marks of other minima on planes."""

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
