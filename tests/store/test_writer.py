"""Cells on their way into the file."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsengine import store
from lsengine.errors import EnvironmentUnfit, SurfaceError
from lsengine.store.writer import contiguous_runs
from lsengine.surface import DONE, FAILED


def test_values_land_in_their_cells(layout, tmp_path, results):
    """Cell c of a plane is row c // A, column c % A, for runs across rows too."""
    store.create(tmp_path / "s.h5", layout)
    writer = store.Writer(tmp_path / "s.h5")
    writer.write(results([9, 2, 3, 4, 5]))
    writer.close()
    surface = store.read(tmp_path / "s.h5")
    expected = np.full(12, np.nan)
    expected[[2, 3, 4, 5, 9]] = np.array([2, 3, 4, 5, 9]) + 0.5
    np.testing.assert_array_equal(surface.quantities["train_loss"].ravel(), expected)
    assert surface.counts() == {"done": 5, "missing": 7, "failed": 0}
    assert surface.provenance["worker"].ravel()[9] == 3


def test_a_surface_that_has_gone_before_the_first_write_is_said_so(tmp_path, monkeypatch):
    """A worker opens the file late: then it may be gone, or go between its two openings."""
    path = tmp_path / "s.h5"
    with pytest.raises(EnvironmentUnfit, match="laid out is not there"):
        store.Writer(path)
    path.write_bytes(b"")
    opened = os.open

    def open_and_lose(*arguments, **options):
        descriptor = opened(*arguments, **options)
        path.unlink()
        return descriptor

    monkeypatch.setattr(os, "open", open_and_lose)
    with pytest.raises(EnvironmentUnfit, match="laid out is not there"):
        store.Writer(path)


def _open_descriptors(path):
    links = list(Path("/proc/self/fd").iterdir())
    return [link for link in links if os.path.lexists(link) and link.readlink() == path]


@pytest.mark.parametrize("who", ["the system", "HDF5"])
def test_a_file_that_cannot_be_opened_twice_is_not_left_open(layout, tmp_path, monkeypatch, who):
    """Neither of the two handles outlives the refusal, while its traceback lives on."""
    path = tmp_path / "s.h5"
    store.create(path, layout)

    def refuse(*arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    with monkeypatch.context() as changed:
        changed.setattr(*((os, "open") if who == "the system" else (h5py, "File")), refuse)
        with pytest.raises(SurfaceError, match="cannot be opened for writing") as refusal:
            store.Writer(path)
    assert refusal.value.__cause__ is not None
    assert _open_descriptors(path) == []


def test_failed_cells_keep_their_reason_and_no_values(layout, tmp_path, results):
    """A failed cell is status 2 with its reason; success later clears both."""
    store.create(tmp_path / "s.h5", layout)
    writer = store.Writer(tmp_path / "s.h5")
    writer.write(results([1, 2], c2="RuntimeError: grösser " + "x" * 500))
    surface = store.read(tmp_path / "s.h5")
    assert surface.status.ravel()[1:3].tolist() == [DONE, FAILED]
    assert surface.provenance["failure"].ravel()[2].decode().startswith("RuntimeError: grösser")
    assert np.isnan(surface.quantities["train_loss"].ravel()[2])
    writer.write(results([2]))
    writer.close()
    surface = store.read(tmp_path / "s.h5")
    assert surface.status.ravel()[2] == DONE
    assert surface.provenance["failure"].ravel()[2] == b""


def test_nan_and_infinity_are_results(layout, tmp_path, results):
    """A cell whose loss is NaN or infinite is done, not missing."""
    store.create(tmp_path / "s.h5", layout)
    results = results([0, 1])
    results.values["train_loss"] = [float("nan"), float("inf")]
    writer = store.Writer(tmp_path / "s.h5")
    writer.write(results)
    writer.close()
    assert store.read(tmp_path / "s.h5").counts()["done"] == 2


def test_status_is_written_after_the_values(layout, tmp_path, monkeypatch, results):
    """If writing the values fails half way, no cell is marked done."""
    store.create(tmp_path / "s.h5", layout)
    writer = store.Writer(tmp_path / "s.h5")
    put = writer._put

    def fail_on_accuracy(name, cells, values):
        if name == "train_accuracy":
            raise OSError(28, "No space left on device")
        put(name, cells, values)

    monkeypatch.setattr(writer, "_put", fail_on_accuracy)
    with pytest.raises(EnvironmentUnfit, match="No space left"):
        writer.write(results([0, 1, 2]))
    writer.close()
    assert store.read(tmp_path / "s.h5").counts()["done"] == 0


@given(st.sets(st.integers(0, 99)), st.integers(1, 12))
def test_runs_cover_the_cells_and_stay_within_rows(cells, row):
    """Runs are ascending, disjoint, inside one row each, and together exactly the cells."""
    runs = contiguous_runs(sorted(cells), row)
    covered = [c for start, stop in runs for c in range(start, stop)]
    assert covered == sorted(cells)
    assert all(start // row == (stop - 1) // row for start, stop in runs)
