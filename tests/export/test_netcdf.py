"""netCDF, read back by xarray."""

from __future__ import annotations

import numpy as np
import xarray

from lsengine import store
from lsengine.export import export
from tests.support.exported import BETA


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
