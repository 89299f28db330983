"""CSV, NPZ and netCDF, read back by Python's own reader, NumPy and xarray."""

from __future__ import annotations

import csv
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import xarray

from lsengine import store
from lsengine.errors import UsageError
from lsengine.export import export
from tests.support.exported import ALPHA, BETA, value


def test_csv_has_a_row_for_every_cell_and_all_digits(plane):
    """Alpha first, then beta, the quantities, the status; no result is an empty field."""
    export(plane, "csv")
    with plane.with_suffix(".csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["alpha", "beta", "test_accuracy", "train_loss", "status"]
    surface = store.read(plane)
    assert len(rows) == 15
    for cell, (alpha, beta, accuracy, loss, status) in enumerate(rows):
        row, column = divmod(cell, 5)
        assert (float(alpha), float(beta)) == (ALPHA[column], BETA[row])
        assert int(status) == surface.status[row, column]
        if cell in (6, 13):
            assert accuracy == loss == ""
        else:
            np.testing.assert_equal(float(loss), value(row, column))
            assert float(accuracy) == surface.quantities["test_accuracy"][row, column]
    assert (rows[1][3], rows[14][3]) == ("nan", "inf")
    assert (rows[6][4], rows[13][4]) == ("0", "2")


def test_csv_of_curves_has_no_beta(curve):
    """Repeats have a column of their own before alpha."""
    export(curve, "csv")
    header, *rows = csv.reader(curve.with_suffix(".csv").read_text().splitlines())
    surface = store.read(curve)
    repeats = "repeat" in surface.axes
    assert header == [*(["repeat"] if repeats else []), "alpha", "train_loss", "status"]
    assert len(rows) == surface.status.size
    if repeats:
        assert [float(r[0]) for r in rows[:5]] == [0, 0, 0, 0, 1]


def test_npz_holds_the_arrays_under_their_names(plane):
    """No pickle is needed; the trajectory's columns have a prefix."""
    export(plane, "npz")
    surface = store.read(plane)
    with np.load(plane.with_suffix(".npz"), allow_pickle=False) as found:
        for name, array in {**surface.axes, **surface.quantities}.items():
            np.testing.assert_array_equal(found[name], array)
        np.testing.assert_array_equal(found["status"], surface.status)
        np.testing.assert_array_equal(found["trajectory_epoch"], [1, 5])
        assert str(found["name"]) == "plane"


def test_netcdf_opens_in_xarray_as_a_dataset_and_as_a_tree(plane):
    """Named coordinates, all quantities, the attributes, the trajectory along `epoch`."""
    export(plane, "netcdf")
    path = plane.with_suffix(".nc")
    surface = store.read(plane)
    with xarray.open_dataset(path, engine="h5netcdf") as found:
        assert found["train_loss"].dims == ("beta", "alpha")
        np.testing.assert_array_equal(found["train_loss"], surface.quantities["train_loss"])
        np.testing.assert_array_equal(found["beta"], BETA)
        assert found["status"].dtype == np.uint8
        assert found.attrs["batch_size"] == 7
        np.testing.assert_array_equal(found["trajectory_alpha"].sel(epoch=5), 0.0)
        assert found.attrs["trajectory_expected_cosine"] == 0.125
    with xarray.open_datatree(path, engine="h5netcdf") as tree:
        np.testing.assert_array_equal(tree["trajectory_beta"], [0.25, 0.0])


def test_netcdf_of_curves(curve):
    """With and without repeats."""
    export(curve, "netcdf")
    with xarray.open_dataset(curve.with_suffix(".nc"), engine="h5netcdf") as found:
        assert found["train_loss"].dims == tuple(store.read(curve).axes)


ODD = ["file", "name", "data", "a<b>&\"'", "$x^{", "\u00e9 \u00fc", "1", "self", "dims"]


def _odd(path, names=ODD):
    """Return a surface with quantities of odd names, each with values of its own."""
    surface, loss = store.read(path), np.arange(15.0).reshape(3, 5)
    return replace(surface, quantities={name: loss + i for i, name in enumerate(names)})


def test_any_name_goes_into_npz_and_netcdf(plane, tmp_path):
    """Also those that are words of NumPy's or xarray's; `name` is then the quantity."""
    surface = _odd(plane)
    export(surface, "npz", tmp_path / "a.npz")
    export(surface, "netcdf", tmp_path / "a.nc")
    with (
        np.load(tmp_path / "a.npz", allow_pickle=False) as arrays,
        xarray.open_dataset(tmp_path / "a.nc", engine="h5netcdf") as dataset,
    ):
        for name, values in surface.quantities.items():
            np.testing.assert_array_equal(arrays[name], values, err_msg=name)
            np.testing.assert_array_equal(dataset[name], values, err_msg=name)


def test_npz_has_the_bytes_that_numpy_writes(plane, tmp_path):
    """But for the names that it does not take."""
    export(plane, "npz", tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as found:
        np.savez_compressed(tmp_path / "b.npz", **found)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize("to", ["npz", "netcdf"])
@pytest.mark.parametrize("name", ["trajectory_alpha", "epoch"])
def test_a_name_that_the_trajectory_has_is_refused(plane, to, name):
    """Neither of the two may be lost."""
    with pytest.raises(UsageError, match=rf"plane\.h5: its quantity {name} "):
        export(_odd(plane, [name]), to)


@pytest.mark.parametrize("to", ["csv", "npz", "netcdf", "vts", "loss-landscape"])
def test_a_full_disk_is_one_message_and_leaves_nothing(plane, tmp_path, to):
    """A limit on the size of files is what a disk that fills up is to a program."""
    script = (
        "import resource, sys; from lsengine.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (400, 400))\n"
        "sys.exit(main(['export', *sys.argv[1:]]))"
    )
    before = sorted(tmp_path.iterdir())
    ended = subprocess.run(
        [sys.executable, "-c", script, str(plane), "--to", to],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 3, ended.stderr
    (line,) = ended.stderr.splitlines()
    assert "cannot be written" in line
    assert sorted(tmp_path.iterdir()) == before
