"""Histograms of weights: counting, names and files."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lsengine import render, store
from lsengine.errors import UsageError
from lsengine.training import weight_histogram
from tests.support.checkpoints import two_networks
from tests.support.pictures import words


@pytest.fixture
def checkpoints(tmp_path):
    """Two networks with known weights."""
    return two_networks(tmp_path)


def test_weights_are_counted_on_common_bins(checkpoints, tmp_path):
    """Known numbers: counts, norms, and which parameters are weights."""
    weight_histogram.histograms(checkpoints, tmp_path / "w.h5", bins=3)
    found = store.read_histograms(tmp_path / "w.h5")
    assert found.checkpoints == ("small", "large")
    assert found.epochs == (300, 300)
    bins = found.groups["weights"]
    np.testing.assert_allclose(bins.edges, [-3, -1, 1, 3])
    assert bins.parameters == ("conv.weight", "fc.weight")
    np.testing.assert_array_equal(bins.counts[0], [[0, 3, 1], [0, 4, 0]])  # -1 in the middle
    np.testing.assert_array_equal(bins.counts[1], [[1, 2, 1], [0, 0, 4]])
    np.testing.assert_allclose(bins.norms, [[2**0.5, 1.0], [18**0.5, 3.0]])
    np.testing.assert_allclose(bins.total_norms, [3**0.5, 27**0.5])
    assert found.groups["others"].parameters == ("fc.bias",)


@pytest.mark.parametrize("bins", [0, -1, 10_001, 10**12])
def test_the_number_of_bins_has_limits(checkpoints, tmp_path, bins):
    """Nothing is written."""
    with pytest.raises(UsageError, match=rf"^bins: got {bins}; expected 1 to 10,000$"):
        weight_histogram.histograms(checkpoints, tmp_path / "w.h5", bins=bins)
    assert not (tmp_path / "w.h5").exists()


def test_what_is_not_finite_is_counted_apart(tmp_path):
    """NaN and infinity are in no bin and no norm, but in a note."""
    state = {"w": torch.tensor([[1.0, float("nan"), float("inf"), -1.0]])}
    torch.save(state, tmp_path / "a.pt")
    found = weight_histogram.histograms([tmp_path / "a.pt"], tmp_path / "w.h5")
    bins = found.groups["weights"]
    assert (bins.counts.sum(), bins.not_finite.sum()) == (2, 2)
    assert bins.total_norms[0] == pytest.approx(2**0.5)
    assert "2 NaN or infinite" in words(render.figure([found], kind="histogram"))


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_parameters_without_plain_numbers_are_refused(tmp_path):
    """Those of a network that was never filled, and quantised ones; the message names them."""
    quantised = torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.qint8)
    for odd in (torch.empty(2, 2, device="meta"), quantised):
        torch.save({"a": torch.ones(2, 2), "w": odd}, tmp_path / "a.pt")
        with pytest.raises(UsageError, match=r"a\.pt holds no plain numbers for w; save"):
            weight_histogram.histograms([tmp_path / "a.pt"], tmp_path / "w.h5")


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_names_that_hdf5_cannot_store_are_refused(tmp_path, name):
    """A checkpoint may call a tensor anything; nothing is left behind."""
    torch.save({name: torch.ones(2, 2)}, tmp_path / "a.pt")
    with pytest.raises(
        UsageError, match=r"the name .* cannot be stored: no text in UTF-8 without NUL"
    ):
        weight_histogram.histograms([tmp_path / "a.pt"], tmp_path / "w.h5")
    assert [*tmp_path.iterdir()] == [tmp_path / "a.pt"]


def test_names_of_checkpoints_are_different_or_given(checkpoints, tmp_path):
    """Alike file names take their folders'; --name wins; too few names are refused."""
    out = tmp_path / "w.h5"
    given = weight_histogram.histograms(checkpoints, out, names=["bs 128", "bs 8192"])
    assert given.checkpoints == ("bs 128", "bs 8192")
    with pytest.raises(UsageError, match="1 names for 2 checkpoints"):
        weight_histogram.histograms(checkpoints, out, names=["a"])
    with pytest.raises(UsageError, match="named twice"):
        weight_histogram.histograms([checkpoints[0]] * 2, out)
    with pytest.raises(UsageError, match=r"ends in \.h5"):
        weight_histogram.histograms(checkpoints, tmp_path / "w.png")


def test_the_weights_file_opens_in_xarray(checkpoints, tmp_path):
    """Every axis has a name, and counts add up to sizes."""
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    weight_histogram.histograms(checkpoints, tmp_path / "w.h5")
    with xarray.open_datatree(tmp_path / "w.h5", engine="h5netcdf") as tree:
        group = tree["weights"]
        assert group["parameter_count"].dims == ("checkpoint", "parameter", "bin")
        np.testing.assert_array_equal(group["parameter_count"].sum("bin"), group["parameter_size"])
