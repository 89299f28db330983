"""Grid, cells, checkpoints and curve of a file that has been changed."""

from __future__ import annotations

from dataclasses import replace

import h5py
import numpy as np
import pytest

from lsengine import store
from lsengine.errors import SurfaceError
from lsengine.store import CurveLayout, TrajectoryLayout
from tests.support.surfaces import edited

TRACK = TrajectoryLayout(
    columns={"epoch": np.array([0, 3]), "alpha": np.zeros(2), "beta": np.ones(2)},
    quantities=["train_loss"],
    attributes={"unit": "step"},
)
CURVE = CurveLayout(
    points=np.zeros((5, 2)),
    controls=np.zeros((3, 2)),
    distance=np.zeros(3),
    t=np.linspace(0, 1, 5),
    attributes={"shape": "bezier", "bend": 1},
)


@pytest.fixture
def surface(layout, tmp_path):
    """The path of a surface with a trajectory and a curve."""
    store.create(tmp_path / "s.h5", replace(layout, trajectory=TRACK, curve=CURVE))
    return tmp_path / "s.h5"


def _put(path, name, value):
    with h5py.File(path, "r+") as file:
        if name in file:
            del file[name]
        if value is not None:
            file[name] = value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("train_loss", np.zeros((3, 5))),
        ("train_loss", np.zeros((3, 4), np.float32)),
        ("train_loss", np.float64(1)),
        ("test_loss", "text"),
        ("precision_error", "x"),
        ("finished", np.zeros(3)),
        ("failure", h5py.Empty("S160")),
        ("worker", np.zeros((3, 4))),
        ("worker", np.full((3, 4), -2, np.int32)),
        ("batch", np.full((3, 4), -1, np.int32)),
        ("trajectory/batch", np.full(2, -7, np.int32)),
        ("trajectory/alpha", None),
        ("trajectory/beta", np.array([0.0, np.nan])),
        ("trajectory/epoch", np.array([3, 0])),
        ("trajectory/epoch", np.zeros(2)),
        ("trajectory/train_loss", np.zeros(3)),
        ("trajectory/source", np.array([1, 2])),
        ("curve/control_beta", np.zeros(2)),
        ("curve/alpha", np.full(5, np.inf)),
        ("curve/control_distance", None),
    ],
)
def test_a_dataset_that_does_not_fit_is_refused_by_name(surface, name, value):
    """Other shapes than the axes', other types, no values, or not there."""
    _put(surface, name, value)
    with pytest.raises(SurfaceError, match=rf"s\.h5: damaged: {name} "):
        store.read(surface)


@pytest.mark.parametrize("value", [None, h5py.Empty("u1"), np.zeros((3, 4)), 3])
@pytest.mark.parametrize("read", [store.read, store.read_status, store.read_grid])
def test_without_status_there_is_no_surface(surface, value, read):
    """Nobody reads on without it."""
    _put(surface, "status", value)
    with pytest.raises(SurfaceError, match=r"s\.h5: damaged: .*status"):
        read(surface)


@pytest.mark.parametrize(("group", "cell"), [("", (1, 2)), ("trajectory/", 1)])
def test_states_are_known_ones(surface, group, cell):
    """0 missing, 1 done, 2 failed, whatever a checksum says."""
    with edited(surface) as file:
        file[f"{group}status"][cell] = 7
    for read in (store.read, store.read_status):
        with pytest.raises(SurfaceError, match=f"{group}status has values that are no states"):
            read(surface)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_coordinates_that_are_not_finite_are_refused(surface, value):
    """There is no such place."""
    with h5py.File(surface, "r+") as file:
        file["alpha"][1] = value
    for read in (store.read, store.read_grid):
        with pytest.raises(SurfaceError, match="alpha has values that are not finite"):
            read(surface)


def test_axes_have_their_names(surface):
    """A direction of another name is none."""
    with h5py.File(surface, "r+") as file:
        file.move("alpha", "gamma")
    with pytest.raises(SurfaceError, match="the axes of status are beta x gamma"):
        store.read(surface)


def test_times_that_no_clock_shows_are_not_known(surface):
    """So no rate and no estimate is made of them."""
    odd = [np.nan, np.inf, -1.0, 1e300]
    with h5py.File(surface, "r+") as file:
        file["finished"][0] = odd
        file["finished"][1:] = 1e9
        file["wall_s"][0] = odd
    found = store.read(surface)
    for name in ("finished", "wall_s"):
        assert np.isnan(found.provenance[name][0]).all()
    assert (found.provenance["finished"][1:] == 1e9).all()


def test_what_is_no_quantity_may_be_there(surface):
    """Other programs' datasets of another shape are left alone."""
    _put(surface, "note", "seen")
    _put(surface, "other", np.zeros(7))
    _put(surface, "more", np.ones((3, 4)))
    assert list(store.read(surface).quantities) == ["more", "train_accuracy", "train_loss"]
