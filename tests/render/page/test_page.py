"""The page: numbers at colour bars and axes, and names."""

from __future__ import annotations

import re

import pytest

from lsengine import render
from lsengine.render.page import page

pytestmark = pytest.mark.usefixtures("no_warning")


def test_a_colour_bar_takes_out_what_long_numbers_share(plane):
    """Of values that differ in the seventh digit no number has seven."""
    surface = plane(lambda a, b: 0.0138939 + 1e-7 * a)
    bar = render.figure([surface], kind="heatmap").axes[-1]
    bar.figure.canvas.draw()
    shown = [re.sub(r"[^\d.]", "", t.get_text()) for t in bar.get_yticklabels()]
    assert 3 <= max(map(len, shown)) <= 5
    assert "1.389" in bar.yaxis.get_offset_text().get_text()


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (1e-5, 20.0, ["$10^{-4}$", "$10^{0}$"]),
        (4e-4, 3e4, ["0.001", "1", "1000"]),
        (0.002, 900.0, ["0.01", "100"]),
        (0.12, 0.9, ["0.2", "0.5"]),
        (1.01, 1.4, []),
    ],
)
def test_a_log_axis_has_numbers_of_one_manner(low, high, said):
    """All plain or all powers of ten, and two of them at least, however short the axis."""
    figure, (axes,) = page.sheet(1, render.STYLES["default"], 0.7)
    page.log_axis(axes, low, high)
    figure.draw_without_rendering()
    shown = [
        label.get_text()
        for label, at in zip(axes.get_yticklabels(), axes.get_yticks(), strict=True)
        if low <= at <= high and label.get_text()
    ]
    assert len(shown) >= 2
    assert set(said) <= set(shown)
    assert len({text.startswith("$") for text in shown}) == 1


def test_names_are_printable(plane):
    """Control characters, unknown glyphs and great length do not reach the caption."""
    assert page.printable("a\nb\tc") == "a b c"
    assert page.printable("\u65e5") == "?"
    assert len(page.printable("x" * 500)) <= page.LONGEST_NAME
