"""Histograms of weights: counting, files and pictures."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.patches import StepPatch
from matplotlib.text import Text

from lsengine import render, store
from lsengine.cli import main
from lsengine.errors import UsageError
from lsengine.report import inputs
from lsengine.surface import records as surface_records
from lsengine.surface.records import History, WeightHistograms
from lsengine.training import weight_histogram
from tests.support.checkpoints import two_networks
from tests.support.landscapes import make_plane


def words(figure) -> str:
    """Return all text of a figure."""
    return " ".join(t.get_text() for t in figure.findobj(Text)).replace("\n", " ")


def make_history(name="small", epochs=40, drops=(20, 30), planned=40, **columns) -> History:
    """Return a history that falls by ten at each drop of the learning rate."""
    epoch = np.arange(epochs + 1)
    rate = 0.1 * 0.1 ** np.sum([epoch > d for d in (*drops, np.inf)], axis=0)
    rate[0] = np.nan
    loss = 2.3 * np.exp(-epoch / 8)
    made = {
        "epoch": epoch,
        "train_loss": loss,
        "train_error": 0.9 * np.exp(-epoch / 5),
        "test_loss": loss + 0.1,
        "test_error": 0.8 * np.exp(-epoch / 5) + 0.1,
        "learning_rate": rate,
        "weight_norm": 10 + epoch / 10,
    }
    norms = np.ones((epochs + 1, 1))
    attributes = {"name": name, "epochs": planned}
    return History(
        columns={**made, **columns},
        parameters=("w",),
        layer_norms=norms,
        attributes=attributes,
        source=f"{name}.h5",
    )


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


def test_files_of_another_kind_are_named(checkpoints, tmp_path, capsys):
    """The message says what a file is and what draws it."""
    store.write_history(tmp_path / "h.h5", make_history())
    assert main(["histogram", *map(str, checkpoints), "-o", str(tmp_path / "w.h5")]) == 0
    for file, kind, expected in (
        ("h.h5", "contour", "a training history, which --as history draws; --as contour needs a s"),
        ("h.h5", "histogram", "--as histogram needs a histogram of weights"),
        ("w.h5", "history", "a histogram of weights, which --as histogram draws"),
    ):
        assert main(["render", str(tmp_path / file), "--as", kind]) == 2
        assert expected in capsys.readouterr().err
    assert main(["compare", str(tmp_path / "h.h5")]) == 2
    with pytest.raises(UsageError, match="no levels"):
        render.figure([make_history()], kind="history", levels=4)
    with pytest.raises(UsageError, match="made of history files only"):
        render.figure([make_plane()], kind="history")


def test_a_file_draws_itself_without_a_kind(checkpoints, tmp_path, capsys):
    """A plane is filled or, lit, a landscape; a line a curve; records have their own kinds."""
    store.write_history(tmp_path / "h.h5", make_history())
    weight_histogram.histograms(checkpoints, tmp_path / "w.h5")
    data = Path(__file__).parents[2] / "archive"
    for source, file, kind in (
        (data / "loss-landscape-1d.h5", "one.h5", "curve"),
        (data / "surface-v1.h5", "two.h5", "filled"),
        (None, "h.h5", "history"),
        (None, "w.h5", "histogram"),
    ):
        if source:
            shutil.copy(source, tmp_path / file)
        drawn = tmp_path / f"{Path(file).stem}-{kind}.png"
        assert main(["render", str(tmp_path / file)]) == 0
        assert capsys.readouterr().out.strip() == str(drawn)
        assert drawn.stat().st_size > 5000
    assert inputs.kind_of(str(tmp_path / "two.h5"), "lit") == "surface"
    assert inputs.kind_of(str(tmp_path / "one.h5"), "lit") == "curve"
    assert main(["render", str(tmp_path / "absent.h5")]) == 2
    assert "absent.h5" in capsys.readouterr().err


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


def test_reading_gives_what_the_kind_is_made_of(tmp_path):
    """A history file is read as one."""
    store.write_history(tmp_path / "h.h5", make_history())
    assert isinstance(inputs.read([str(tmp_path / "h.h5")], "history")[0], History)
