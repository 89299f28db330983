"""Pictures of histories."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lsengine import render
from lsengine.errors import UsageError
from lsengine.surface.records import History
from tests.support.histories import make_history
from tests.support.landscapes import make_plane
from tests.support.pictures import lines_at, words


def measured_every(epochs: int, history: History) -> History:
    """Return a history of which only every so many epochs were measured."""
    rows = np.flatnonzero(history.columns["epoch"] % epochs == 0)
    return replace(
        history,
        columns={name: values[rows] for name, values in history.columns.items()},
        layer_norms=history.layer_norms[rows],
    )


def test_histories_have_panels_for_loss_error_and_norm():
    """Training solid and test dotted in one colour; losses that fall far on a log scale."""
    figure = render.figure([make_history()], kind="history")
    loss, error, norm = figure.axes
    train, test = loss.lines[:2]
    assert train.get_linestyle() == "-"
    assert test.get_linestyle() != "-"
    assert train.get_color() == test.get_color()
    assert loss.get_yscale() == "log"
    assert error.get_yscale() == "linear"
    np.testing.assert_allclose(error.lines[0].get_ydata()[0], 90.0)
    np.testing.assert_allclose(norm.lines[0].get_ydata()[-1], 14.0)
    assert "small test error 10.03 %" in words(figure)


def test_drops_of_the_learning_rate_are_marked_at_their_epoch():
    """The rate of epoch 21 is lower than that of 20: the line stands at 20."""
    figure = render.figure([make_history()], kind="history")
    assert [lines_at(axes) for axes in figure.axes] == [[20.0, 30.0]] * 3
    assert "learning rate drops" in words(figure)


def test_a_drop_between_two_measured_epochs_is_a_band():
    """Of rows at 0, 7, 14, 21: the rate falls after one of the epochs 14 to 20."""
    few = measured_every(7, make_history(drops=(20,)))
    axes = render.figure([few], kind="history").axes[0]
    assert lines_at(axes) == []
    (band,) = (p for p in axes.patches if p.get_zorder() == 1)
    assert (band.get_x(), band.get_x() + band.get_width()) == (14, 20)


def test_drops_in_neighbouring_rows_are_both_marked():
    """Of rows at 0, 8, 16, ..., 40, the rate falls from 16 to 24 and again from 24 to 32."""
    few = measured_every(8, make_history(drops=(20, 30)))
    axes = render.figure([few], kind="history").axes[0]
    bands = [(p.get_x(), p.get_x() + p.get_width()) for p in axes.patches if p.get_zorder() == 1]
    assert bands == [(16, 23), (24, 31)]


def test_a_gliding_learning_rate_has_no_drops():
    """A cosine schedule falls everywhere and drops nowhere."""
    rate = np.r_[np.nan, 0.05 * (1 + np.cos(np.linspace(0, np.pi, 40)))]
    for still in (make_history(learning_rate=rate), make_history(drops=())):
        assert lines_at(render.figure([still], kind="history").axes[0]) == []


def test_several_histories_share_panels_and_have_colours():
    """Each history has its colour in all panels, and its drops are in it if they differ."""
    figure = render.figure([make_history(), make_history("large", drops=(10,))], kind="history")
    colors = [{line.get_color() for line in axes.lines} for axes in figure.axes]
    assert colors[0] == colors[1] == colors[2]
    assert len(colors[0]) == 2
    assert lines_at(figure.axes[0]) == [10.0, 20.0, 30.0]
    assert "large (10.03 %)" in words(figure)
    assert "in parentheses: test error" in words(figure)


def test_histories_of_one_name_are_told_apart_by_their_folders():
    """Two trainings of one job file's name get the parts in which their files differ."""
    files = ("runs/a/history.h5", "runs/b/history.h5")
    both = [replace(make_history("net"), source=file) for file in files]
    said = words(render.figure(both, kind="history"))
    assert "net (a) (10.03 %)" in said
    assert "net (b) (10.03 %)" in said


def test_unfinished_and_diverged_histories_say_so():
    """A note counts the epochs so far, and those without a finite loss."""
    loss = make_history().columns["train_loss"].copy()
    loss[35:] = np.nan
    figure = render.figure([make_history(planned=300, train_loss=loss)], kind="history")
    assert "40 of 300 epochs so far" in words(figure)
    assert "6 epochs without a finite loss" in words(figure)
    nothing = dict.fromkeys(
        ("train_loss", "test_loss", "train_error", "test_error", "weight_norm", "learning_rate"),
        np.full(41, np.nan),
    )
    with pytest.raises(UsageError, match="no finite value"):
        render.figure([make_history(**nothing)], kind="history")


def test_a_history_before_the_first_epoch_is_drawn():
    """One row, drawn as dots."""
    figure = render.figure([make_history(epochs=0, drops=())], kind="history")
    assert figure.axes[0].lines[0].get_marker() == "o"


@pytest.mark.parametrize("style", render.STYLES)
def test_histories_stay_on_the_page(style):
    """Five histories with long names leave a margin on all sides."""
    many = [make_history(f"a network of some kind, number {i}") for i in range(5)]
    figure = render.figure(many, kind="history", style=style)
    box = figure.get_tightbbox(figure.canvas.get_renderer())
    width, height = figure.get_size_inches()
    assert min(box.x0, box.y0, width - box.x1, height - box.y1) > 0.02


def test_one_curve_of_a_history_can_be_asked_for():
    """--quantity draws it alone; an unknown one is refused with the nearest name."""
    figure = render.figure([make_history()], kind="history", quantity="learning_rate")
    assert len(figure.axes) == 1
    with pytest.raises(UsageError, match=r"no curve 'weigt_norm'.*weight_norm"):
        render.figure([make_history()], kind="history", quantity="weigt_norm")


def test_the_norm_of_one_parameter_can_be_asked_for():
    """By the name of the parameter, as a histogram can; one line, with the norms of the file."""
    epochs = np.arange(41)
    norms = np.stack([3.0 + epochs, 0.1 * epochs], axis=1)
    made = replace(make_history(), parameters=("conv1.weight", "fc.bias"), layer_norms=norms)
    (side,) = render.figure([made], kind="history", quantity="fc.bias").axes
    assert side.get_ylabel() == "norm of fc.bias"
    np.testing.assert_array_equal(side.lines[0].get_ydata(), norms[:, 1])
    with pytest.raises(UsageError, match=r"no curve 'conv1.wieght'.*mean \"conv1.weight\""):
        render.figure([made], kind="history", quantity="conv1.wieght")


def test_what_a_history_is_not_drawn_with_is_refused():
    """It has no levels, and nothing but histories makes a picture of its kind."""
    with pytest.raises(UsageError, match="no levels"):
        render.figure([make_history()], kind="history", levels=4)
    with pytest.raises(UsageError, match="made of history files only"):
        render.figure([make_plane()], kind="history")
