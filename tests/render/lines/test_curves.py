"""Curves along one direction: axes, repeats, gaps and the ends of interpolations."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from lsengine import render
from lsengine.surface import DONE, FAILED
from tests.support.landscapes import make_curve
from tests.support.pictures import TOWARD, lines_at, toward, words

pytestmark = pytest.mark.usefixtures("no_warning")


def test_curve_has_losses_left_and_accuracies_right(curve):
    """The left axis holds both losses, the right both accuracies, test dashed."""
    surface = curve()
    figure = render.figure([surface], kind="curve")
    left, right = figure.axes
    assert left.get_yscale() == "log"
    np.testing.assert_array_equal(left.lines[0].get_ydata(), surface.quantities["train_loss"])
    np.testing.assert_allclose(
        right.lines[1].get_ydata(), 100 * surface.quantities["test_accuracy"]
    )
    assert [line.is_dashed() for line in left.lines] == [False, True]


def test_repeats_are_overlaid_with_their_median_and_spread(curve):
    """Ten thin lines, one bold median, and a band between the quartiles."""
    surface = curve(repeats=10)
    axes = render.figure([surface], kind="curve", quantity="train_loss").axes[0]
    thin = [line for line in axes.lines if line.get_linewidth() < 1]
    bold = [line for line in axes.lines if line.get_linewidth() > 1]
    assert (len(thin), len(bold)) == (10, 1)
    loss = surface.quantities["train_loss"]
    np.testing.assert_allclose(bold[0].get_ydata(), np.median(loss, axis=0))
    band = axes.collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx(np.quantile(loss, 0.75, axis=0).max())


def test_splits_of_repeats_are_told_apart(curve):
    """Of one surface the bands of train and test have different colours, and a legend entry."""
    figure = render.figure([curve(repeats=10)], kind="curve")
    losses = figure.axes[0]
    bold = {line.get_color(): line.is_dashed() for line in losses.lines if line.get_linewidth() > 1}
    assert sorted(bold.values()) == [False, True]
    bands = {tuple(band.get_facecolor()[0][:3]) for band in losses.collections}
    assert len(bands) == 2
    legend = {h.get_label(): h.get_color() for h in figure.legends[0].legend_handles}
    assert {legend["train"], legend["test"]} == set(bold)


def test_clipped_curves_say_how_much_is_beyond_the_axis(curve):
    """With limits a note counts the values that they cut off; without, a log axis has all."""
    surface = curve()
    losses = np.concatenate([surface.quantities[f"{s}_loss"] for s in ("train", "test")])
    figure = render.figure([surface], kind="curve", limits=(0.05, 5.0))
    above, below = (losses > 5).sum(), (losses < 0.05).sum()
    said = f"{above} of 102 values above 5, {below} of 102 values below 0.05, beyond the axis"
    assert said in " ".join(words(figure).split())
    figure = render.figure([surface], kind="curve")
    assert "beyond the axis" not in words(figure)
    low, high = figure.axes[0].get_ylim()
    assert low < losses.min() < losses.max() < high


def test_a_line_between_minima_has_both_test_errors(curve):
    """The legend gives the error at 0 and at 1 where the direction leads to a checkpoint."""
    directions = {"alpha": {"kind": "toward", "normalize": "none", "ignore": []}}
    attributes = {"identity": json.dumps({"directions": directions})}
    two = [replace(curve(name=n), attributes=attributes) for n in ("one", "two")]
    accuracy = two[0].quantities["test_accuracy"]
    ends = [100 * (1 - accuracy[i]) for i in (25, 50)]
    said = words(render.figure(two, kind="curve"))
    assert f"one ({ends[0]:.2f} % \N{RIGHTWARDS ARROW} {ends[1]:.2f} %)" in said


def test_curve_runs_on_over_missing_cells_and_breaks_at_bad_ones(curve):
    """A coarse curve is a joined line with its points; a failed cell is a gap; both noted."""
    status = np.zeros(51, np.uint8)
    status[::5] = DONE
    status[20] = FAILED
    figure = render.figure([curve(status=status)], kind="curve", quantity="train_loss")
    line = figure.axes[0].lines[0]
    assert line.get_marker() == "o"
    assert np.isnan(line.get_ydata()).sum() == 1
    assert len(line.get_ydata()) == 11
    assert "40 of 51 cells missing" in words(figure)
    assert "1 failed" in words(figure)


@pytest.mark.parametrize("style", render.STYLES)
@pytest.mark.parametrize("count", [1, 2, 9])
def test_curves_and_their_legend_stay_on_the_page(style, count):
    """With one or nine surfaces the legend is whole and names each."""
    surfaces = [make_curve(name=f"network {i}") for i in range(count)]
    figure = render.figure(surfaces, kind="curve", style=style)
    box = figure.get_tightbbox(figure.canvas.get_renderer())
    width, height = figure.get_size_inches()
    assert min(box.x0, box.y0, width - box.x1, height - box.y1) > 0.02
    assert all(f"network {i}" in words(figure) for i in range(count))
    if count > 1:
        assert len({line.get_color() for line in figure.axes[0].lines}) == count


def test_curves_mark_both_ends_of_an_interpolation():
    """Upright lines at 0 and 1, named above the axes; other curves have none."""
    figure = render.figure([toward(make_curve(), alpha=TOWARD)], kind="curve")
    assert lines_at(figure.axes[0]) == [0.0, 1.0]
    assert "other minimum" in words(figure)
    assert lines_at(render.figure([make_curve()], kind="curve").axes[0]) == []


def test_an_empty_subtitle_leaves_errors_out_of_legends():
    """As it does below titles."""
    surfaces = [replace(make_curve(), name=name) for name in ("one", "two")]
    assert "%)" in words(render.figure(surfaces, kind="curve", quantity="train_loss"))
    text = words(render.figure(surfaces, kind="curve", quantity="train_loss", subtitle=""))
    assert "one" in text
    assert "%)" not in text
    assert "in parentheses" not in text
