"""Files of every format version, and of loss-landscape, kept as they were written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray

import lsengine
from lsengine import store
from lsengine.store import damage, digest

DATA = Path(__file__).parent
LARGEST = 60_000  # bytes


# Loss of a corner, standard error there, loss of the centre, checkpoints' alphas: by versions,
# whose files come from processors that differ in the last bits of float32.
NUMBERS = {
    1: (
        0.9245727055211501,
        0.08399075580887125,
        1.0655304363423137,
        [0.0013437495657834786, 0.011589403905535717, 0.0],
    ),
    2: (
        0.9245727061685448,
        0.08399075603869076,
        1.0655304355875814,
        [0.0013437495657834626, 0.011589403905535716, 0.0],
    ),
}
NUMBERS[3] = NUMBERS[2]
FINGERPRINTS = {1: "84130ea4affb9662", 2: "84130ea4affb9662", 3: "adc2177fc0a46c7d"}


def surface(path):
    """A plane with failed cells, directions and a trajectory, the same in every version."""
    surface = lsengine.open(path)
    version = surface.attributes["format_version"]
    assert path.stem == f"surface-v{version}"
    corner, error, centre, alphas = NUMBERS[version]
    assert surface.attributes["lsengine_version"] == "0.1.0"
    assert surface.attributes["fingerprint"].startswith(FINGERPRINTS[version])
    assert list(surface.axes) == ["beta", "alpha"]
    assert surface.alpha.tolist() == [-1.0, -0.5, 0.0, 0.5]
    assert surface.beta.tolist() == [-0.5, 0.0, 0.5]
    assert surface.status.tolist() == [[1, 1, 1, 2], [1, 1, 1, 2], [1, 1, 2, 2]]
    assert surface.provenance["failure"][0, 3] == b"RuntimeError: too far"
    kinds = ("accuracy", "loss", "loss_se")
    assert set(surface.quantities) == {f"{s}_{k}" for s in ("train", "test") for k in kinds}
    assert surface.quantities["train_loss"][0, 0] == corner
    assert surface.quantities["test_loss_se"][0, 0] == error
    assert surface.quantities["train_loss"][1, 2] == centre
    assert np.isnan(surface.quantities["train_loss"][surface.mask]).all()
    assert surface.job.startswith("name: surface\nmodel:\n")
    directions = store.read_directions(path)
    assert {a: {n: v.shape for n, v in d.items()} for a, d in directions.items()} == {
        axis: {"net.0.weight": (16, 6), "net.3.weight": (3, 16)} for axis in ("alpha", "beta")
    }
    assert directions["beta"]["net.0.weight"].sum() == pytest.approx(1.0396082, abs=1e-6)
    state = store.read_state(path)
    assert state[:2] == [["start", [], False], ["net.0.weight", [16, 6], True]]
    columns = surface.trajectory.columns
    assert columns["epoch"].tolist() == [1, 2, 3]
    assert columns["status"].tolist() == [1, 2, 1]
    assert columns["alpha"].tolist() == alphas
    assert columns["plane_train_loss"][2] == columns["train_loss"][2] == centre


def history(path):
    """Two epochs, the same in every version."""
    found = store.read_history(path)
    assert found.columns["epoch"].tolist() == [0, 1, 2]
    expected = {"history-v1": 0.8079043623995159, "history-v2": 0.8079043641369287}
    assert found.columns["train_loss"][-1] == expected[path.stem]
    assert found.columns["test_error"][0] == 0.9032258064516129
    assert np.isnan(found.columns["learning_rate"][0])
    assert found.columns["learning_rate"][2] == pytest.approx(0.01)
    assert found.parameters[:2] == ("0.weight", "0.bias")
    assert found.layer_norms.shape == (3, 6)
    assert np.sqrt((found.layer_norms**2).sum(1)) == pytest.approx(found.columns["weight_norm"])
    assert found.finished


def old_plane(path):
    """Thirteen of 5 x 4 cells, (nx, ny) in shape and (ny, nx) in order."""
    surface = lsengine.open(path)
    assert surface.status.shape == (4, 5)
    assert np.flatnonzero(surface.done).tolist() == list(range(13))
    assert surface.quantities["train_loss"][1].tolist() == [1.75, 1.0, 0.75, 1.0, 1.75]
    assert surface.quantities["train_accuracy"][1].tolist() == [0.85, 0.925, 0.95, 0.925, 0.85]


def old_curve(path):
    """Five cells."""
    surface = lsengine.open(path)
    assert list(surface.axes) == ["alpha"]
    assert surface.quantities["train_loss"].tolist() == [1.75, 1.0, 0.75, 1.0, 1.75]


def old_curvature(path):
    """Seven of 5 x 4 cells."""
    surface = lsengine.open(path)
    assert surface.counts() == {"done": 7, "missing": 13, "failed": 0}
    assert surface.quantities["eigenvalue_max"][0].tolist() == [7.0, 7.5, 8.0, 8.5, 9.0]
    assert surface.quantities["eigenvalue_min"][1, :2].tolist() == [-2.0, -2.0]


def old_directions(path):
    """Two tensors along each direction."""
    found = store.read_directions(path)
    assert found["alpha"]["0"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["beta"]["1"].tolist() == [0, -1]


READERS = {
    "surface-v1.h5": surface,
    "surface-v2.h5": surface,
    "surface-v3.h5": surface,
    "history-v1.h5": history,
    "history-v2.h5": history,
    "loss-landscape-2d.h5": old_plane,
    "loss-landscape-1d.h5": old_curve,
    "loss-landscape-hessian.h5": old_curvature,
    "loss-landscape-directions.h5": old_directions,
}


@pytest.mark.parametrize("name", sorted(p.name for p in DATA.glob("*.h5")))
def test_archived_files_are_read_as_ever(name):
    """Every file of the archive has a reader that knows its values."""
    assert (DATA / name).stat().st_size < LARGEST
    READERS[name](DATA / name)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_digests_and_checksums_of_the_archive_fit(version):
    """Those that have some still fit."""
    verdict = damage.verify(DATA / f"surface-v{version}.h5")
    assert (verdict.has_digest, verdict.has_checksums) == (version == 3, version == 3)
    assert (verdict.is_damaged, verdict.finished) == (False, 15)
    expected = digest.State.FITS if version == 3 else digest.State.ABSENT
    assert digest.state(DATA / f"history-v{max(1, version - 1)}.h5") is expected


def test_the_archive_is_complete():
    """A reader without its file would never run."""
    assert {p.name for p in DATA.glob("*.h5")} == READERS.keys()


@pytest.mark.parametrize("version", [1, 2, 3])
def test_xarray_opens_the_archived_surfaces(version):
    """The dataset, and each group."""
    path = DATA / f"surface-v{version}.h5"
    with xarray.open_dataset(path) as found:
        assert found["train_loss"].sel(alpha=0.0, beta=0.0) == NUMBERS[version][2]
    with xarray.open_dataset(path, group="trajectory") as found:
        assert found["alpha"].dims == ("epoch",)


@pytest.mark.parametrize("version", [2, 3])
def test_xarray_opens_an_archived_surface_as_a_tree(version):
    """From version 2 on, plainly and with everything in it."""
    with xarray.open_datatree(DATA / f"surface-v{version}.h5") as tree:
        assert tree["train_loss"].sel(alpha=0.0, beta=0.0) == NUMBERS[version][2]
        assert tree["directions/along_beta/net.0.weight"].shape == (16, 6)
        assert tree["trajectory"].to_dataset(inherit=False)["alpha"].dims == ("epoch",)
