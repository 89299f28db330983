"""From file names to what a kind of picture is made of."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lsengine import store
from lsengine.cli import main
from lsengine.report import inputs
from lsengine.surface.records import History
from lsengine.training import weight_histogram
from tests.support.checkpoints import two_networks
from tests.support.histories import make_history


@pytest.fixture
def checkpoints(tmp_path):
    """Two networks with known weights."""
    return two_networks(tmp_path)


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


def test_a_file_draws_itself_without_a_kind(checkpoints, tmp_path, capsys):
    """A plane is filled or, lit, a landscape; a line a curve; records have their own kinds."""
    store.write_history(tmp_path / "h.h5", make_history())
    weight_histogram.histograms(checkpoints, tmp_path / "w.h5")
    data = Path(__file__).parents[1] / "archive"
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


def test_reading_gives_what_the_kind_is_made_of(tmp_path):
    """A history file is read as one."""
    store.write_history(tmp_path / "h.h5", make_history())
    assert isinstance(inputs.read([str(tmp_path / "h.h5")], "history")[0], History)
