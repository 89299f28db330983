"""The surface file when it is new."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray

from lsengine import store
from lsengine.errors import EnvironmentUnfit
from lsengine.files import Unwritable
from lsengine.store import Layout
from lsengine.store.file import reserve
from lsengine.surface import MISSING
from lsengine.surface.grid import make_grid
from tests.support.jobs import values


def test_a_new_file_is_complete_and_empty(layout, tmp_path):
    """Everything exists at its full size from the start: NaN values, status missing."""
    store.create(tmp_path / "s.h5", layout)
    surface = store.read(tmp_path / "s.h5")
    assert (surface.status == MISSING).all()
    assert surface.status.shape == (3, 4)
    assert list(surface.axes) == ["beta", "alpha"]
    assert list(surface.quantities) == ["train_accuracy", "train_loss"]
    assert np.isnan(surface.quantities["train_loss"]).all()


def test_datasets_are_contiguous_unfiltered_and_allocated(layout, tmp_path):
    """The conditions under which independent parallel writes need no metadata."""
    store.create(tmp_path / "s.h5", layout)
    with h5py.File(tmp_path / "s.h5") as file:
        for name in ("train_loss", "status", "failure", "wall_s", "precision_error"):
            dataset = file[name]
            assert dataset.chunks is None, name
            assert dataset.id.get_offset() is not None, name
            assert dataset.id.get_storage_size() == dataset.nbytes, name


@pytest.mark.parametrize("repeats", [1, 3])
def test_xarray_opens_it_with_named_coordinates(layout, tmp_path, repeats):
    """`open_dataset` gives labelled quantities, `open_datatree` the directions, too."""
    grid = layout.grid if repeats == 1 else make_grid([-1, 1, 4], repeats=repeats)
    directions = {"alpha": {"w": np.ones((repeats, 2, 2), np.float32)}}
    store.create(
        tmp_path / "s.h5",
        Layout(
            grid=grid,
            quantities=layout.quantities,
            attributes=layout.attributes,
            directions=directions,
        ),
    )
    with xarray.open_dataset(tmp_path / "s.h5") as dataset:
        assert dataset["train_loss"].dims == tuple(grid.axes)
        np.testing.assert_array_equal(dataset["alpha"], grid.axes["alpha"])
        assert dataset.attrs["format"] == "lsengine-surface"
    with xarray.open_datatree(tmp_path / "s.h5") as tree:
        assert tree["train_loss"].dims == tuple(grid.axes)
        assert tree["directions/along_alpha/w"].shape == (repeats, 2, 2)


def test_a_file_that_does_not_fit_leaves_nothing_behind(layout, tmp_path):
    """With a limit on file size, as on a full disk, no part and no surface remain."""
    script = (
        "import resource, signal, sys; sys.path.insert(0, sys.argv[2]);"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096));"
        "from pathlib import Path; from lsengine import store;"
        "from lsengine.surface.grid import make_grid;"
        "layout = store.Layout(quantities=['train_loss'], attributes={},"
        " grid=make_grid([-1, 1, 99], [-1, 1, 99]));"
        "store.create(Path(sys.argv[1]), layout)"
    )
    assert resource.RLIMIT_FSIZE is not None
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", script, str(tmp_path / "s.h5"), root]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "Unwritable: " in ended.stderr
    assert issubclass(Unwritable, EnvironmentUnfit)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["*.h5", "a.h5", "[ab].h5"])
def test_a_surface_costs_no_other_one_in_the_making(layout, tmp_path, name):
    """Whatever the job is called, only what was left of this very file is cleared away."""
    others = [tmp_path / f".{other}.0123abcd.part.h5" for other in ("a.h5.b.h5", "c.h5")]
    left_over = tmp_path / f".{name}.89abcdef.part.h5"
    for path in (*others, left_over):
        path.touch()
    store.create(tmp_path / name, layout)
    assert sorted(tmp_path.iterdir()) == sorted([*others, tmp_path / name])


@pytest.mark.parametrize("has_fallocate", [True, False])
def test_room_is_asked_for_with_and_without_fallocate(tmp_path, monkeypatch, has_fallocate):
    """MacOS has no such call: there the bytes are written, so that all of them exist."""
    if not has_fallocate:
        monkeypatch.delattr(os, "posix_fallocate")
    reserve(tmp_path / "new", 3_000_000)
    state = (tmp_path / "new").stat()
    assert state.st_size == 3_000_000
    assert state.st_blocks * 512 >= 3_000_000


def test_a_surface_is_made_where_there_is_no_fallocate(layout, tmp_path, monkeypatch):
    """The file is the same, and its datasets are allocated."""
    store.create(tmp_path / "with.h5", layout)
    monkeypatch.delattr(os, "posix_fallocate")
    store.create(tmp_path / "without.h5", layout)
    assert values(tmp_path / "without.h5") == values(tmp_path / "with.h5")
    with h5py.File(tmp_path / "without.h5") as file:
        assert file["train_loss"].id.get_storage_size() == file["train_loss"].nbytes
