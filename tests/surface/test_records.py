"""Histories and histograms as values."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lsengine.surface.records import Bins
from tests.support.histories import make_history


@pytest.mark.parametrize(("epochs", "planned", "finished"), [(40, 40, True), (39, 40, False)])
def test_a_history_is_finished_with_its_last_planned_epoch(epochs, planned, finished):
    """Epoch 0 is before the training and does not count."""
    assert make_history(epochs=epochs, planned=planned).finished is finished


def test_a_history_without_rows_is_not_finished():
    """Nothing has been written yet."""
    nothing = make_history(epoch=np.array([], np.int64))
    assert not nothing.finished


def test_a_history_takes_another_name_and_keeps_the_rest():
    """The one renamed stays as it is; one without a name is called after its file."""
    history = make_history("small")
    other = history.renamed("large")
    assert (history.name, other.name) == ("small", "large")
    assert other.columns is history.columns
    assert other.attributes["epochs"] == history.attributes["epochs"]
    del history.attributes["name"]
    assert history.name == history.source == "small.h5"


def test_the_norm_of_all_parameters_leaves_out_what_a_checkpoint_lacks():
    """Norms of 3 and 4 are 5 together; with one of them missing the other is left."""
    one = np.ones((2, 2), np.int64)
    bins = Bins(
        edges=np.array([0.0, 1.0]),
        parameters=("a", "b"),
        counts=one[..., None],
        sizes=one,
        norms=np.array([[3.0, 4.0], [math.nan, 4.0]]),
        not_finite=0 * one,
    )
    np.testing.assert_array_equal(bins.total_norms, [5.0, 4.0])
