"""NPZ, read back by NumPy."""

from __future__ import annotations

import numpy as np

from lsengine import store
from lsengine.export import export


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
