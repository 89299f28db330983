"""Pictures of histograms of weights."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib.patches import StepPatch

from lsengine import render, store
from lsengine.errors import UsageError
from lsengine.surface import records as surface_records
from lsengine.surface.records import WeightHistograms
from lsengine.training import weight_histogram
from tests.support.checkpoints import two_networks
from tests.support.histories import make_history
from tests.support.pictures import words


@pytest.fixture
def checkpoints(tmp_path):
    """Two networks with known weights."""
    return two_networks(tmp_path)


def test_networks_of_different_parameters_go_together(checkpoints, tmp_path):
    """A parameter that one lacks has no elements and no norm there; shares are drawn."""
    torch.save({"fc.weight": torch.ones(2, 2)}, tmp_path / "b.pt")
    found = weight_histogram.histograms([checkpoints[0], tmp_path / "b.pt"], tmp_path / "w.h5")
    assert found.checkpoints == ("epoch_300", "b")
    bins = found.groups["weights"]
    assert bins.sizes.tolist() == [[4, 4], [0, 4]]
    assert np.isnan(bins.norms[1, 0])
    figure = render.figure([found], kind="histogram")
    assert figure.axes[0].get_ylabel() == "share per bin (%)"
    alone = render.figure([found], kind="histogram", quantity="conv.weight")
    assert "b: has no such parameter" in words(alone)


def test_histogram_outlines_have_the_counts(checkpoints, tmp_path):
    """One outline for each checkpoint on the file's edges, with its norm in the legend."""
    found = weight_histogram.histograms(checkpoints, tmp_path / "w.h5", bins=3)
    figure = render.figure([found], kind="histogram", scale="linear")
    outlines = figure.axes[0].findobj(StepPatch)
    assert [list(o.get_data().values) for o in outlines] == [[0, 7, 1], [1, 2, 5]]
    assert "large (norm 5.196)" in words(figure)
    others = render.figure([found], kind="histogram", quantity="others")
    assert "bias or normalisation" in words(others)
    with pytest.raises(UsageError, match=r"no parameters 'fc.weigh'.*fc.weight"):
        render.figure([found], kind="histogram", quantity="fc.weigh")


def test_peaked_histograms_are_drawn_as_logarithms():
    """Heights thousands of times the median are; a flat histogram is not."""
    edges, sharp = np.linspace(-1, 1, 102), np.ones((1, 1, 101), np.int64)
    flat = sharp.copy()
    sharp[0, 0, 50] = 5000
    for counts, expected in ((sharp, "log"), (flat, "linear")):
        ones = np.ones((1, 1), np.int64)
        bins = surface_records.Bins(
            edges=edges,
            parameters=("w",),
            counts=counts,
            sizes=ones,
            norms=ones * 1.0,
            not_finite=0 * ones,
        )
        figure = render.figure(
            [WeightHistograms(checkpoints=("a",), groups={"weights": bins}, epochs=(1,))],
            kind="histogram",
        )
        assert figure.axes[0].get_yscale() == expected


def test_drawing_needs_no_torch(checkpoints, tmp_path):
    """In a fresh interpreter both kinds are drawn without torch or MPI."""
    store.write_history(tmp_path / "h.h5", make_history())
    weight_histogram.histograms(checkpoints, tmp_path / "w.h5")
    code = (
        "import sys; from lsengine.cli import main\n"
        f"for f, k in (('h', 'history'), ('w', 'histogram')):\n"
        f"    assert main(['render', f'{tmp_path}/{{f}}.h5', '--as', k]) == 0\n"
        "assert not {'torch', 'mpi4py', 'scipy', 'yaml'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert (tmp_path / "h-history.png").stat().st_size > 5000
    assert (tmp_path / "w-histogram.png").stat().st_size > 5000
