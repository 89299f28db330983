"""What is opened as a surface, and what is refused."""

from __future__ import annotations

import os

import h5py
import numpy as np
import pytest

from lsengine import store
from lsengine.errors import SurfaceError, UsageError


@pytest.mark.parametrize("damage", ["truncated", "text", "empty", "foreign"])
def test_damaged_and_foreign_files_are_refused(layout, tmp_path, damage):
    """What is no surface is refused with its name and is left as it is."""
    path = tmp_path / "s.h5"
    store.create(path, layout)
    if damage == "truncated":
        os.truncate(path, 3000)
    elif damage == "text":
        path.write_text("alpha,beta\n")
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
        with h5py.File(path, "w") as file:
            file["train_loss"] = np.zeros(3)
    before = path.read_bytes()
    with pytest.raises(SurfaceError, match=str(path)):
        store.read(path)
    assert path.read_bytes() == before


def test_a_newer_format_is_refused_with_both_versions(layout, tmp_path):
    """A file of the future says what it is and what this program reads."""
    store.create(tmp_path / "s.h5", layout)
    with h5py.File(tmp_path / "s.h5", "r+") as file:
        file.attrs["format_version"] = 99
    with pytest.raises(SurfaceError, match=r"99.*newer lsengine"):
        store.read(tmp_path / "s.h5")


@pytest.mark.parametrize("kind", ["missing", "directory"])
def test_paths_that_are_no_files_are_usage_errors(tmp_path, kind):
    """A mistyped name is the user's error, not a damaged file."""
    path = tmp_path / "no.h5"
    if kind == "directory":
        path.mkdir()
    with pytest.raises(UsageError, match=str(path)):
        store.read(path)


@pytest.mark.parametrize("kind", ["fifo", "directory"])
def test_what_is_no_file_has_no_format_and_is_not_waited_for(tmp_path, kind):
    """Whatever lies where a file should be made, the answer comes at once."""
    (os.mkfifo if kind == "fifo" else os.mkdir)(tmp_path / "x.h5")
    assert store.format_of(tmp_path / "x.h5") is None
    for act in (store.Writer, store.read):
        with pytest.raises((SurfaceError, UsageError), match=r"x\.h5"):
            act(tmp_path / "x.h5")


def test_of_what_is_no_hdf5_file_only_the_first_bytes_are_read(tmp_path):
    """A file of 2^40 bytes that takes no room on the disk; looking through it takes an hour."""
    with (tmp_path / "large.h5").open("wb") as file:
        file.truncate(2**40)
    assert store.format_of(tmp_path / "large.h5") is None
    with pytest.raises(SurfaceError, match="not a readable HDF5 file"):
        store.read(tmp_path / "large.h5")
