"""Checksums of cells."""

from __future__ import annotations

import os
import shutil
import signal
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from lsengine import store
from lsengine.store import TrajectoryLayout, Writer, checksums
from lsengine.surface import DONE, FAILED, MISSING


def crc(cell, status, values=(), why=b""):
    """The checksum of one cell, with Python's struct: values in the order of sorted names."""
    row = struct.pack("<qB", cell, status)
    row += why if status == FAILED else struct.pack(f"<{len(values)}d", *values)
    return zlib.crc32(row)


@pytest.fixture
def surface(layout, tmp_path):
    """A new plane of 3 x 4 cells, with two checkpoints."""
    columns = {"epoch": np.arange(2), "alpha": np.zeros(2), "beta": np.zeros(2)}
    trajectory = TrajectoryLayout(columns, ["train_loss", "plane_train_loss"], {})
    store.create(tmp_path / "s.h5", replace(layout, trajectory=trajectory))
    return tmp_path / "s.h5"


def write(path, found):
    """Write results and close the file."""
    writer = Writer(path)
    try:
        writer.write(found)
    finally:
        writer.close()


def test_they_are_what_the_format_says(surface, results):
    """CRC-32 of index, status, and values by name, or the reason of a failure."""
    found = results([1, 6, 13], c6="too far")
    found.values["plane_train_loss"] = [float("nan"), float("nan"), 7.0]
    write(surface, found)
    with h5py.File(surface) as file:
        stored, of_run = file["checksum"][...].ravel(), file["trajectory/checksum"][...]
    expected = np.zeros(12, np.uint32)
    expected[1] = crc(1, DONE, [0.01, 1.5])  # train_accuracy, train_loss
    expected[6] = crc(6, FAILED, why=b"too far")
    assert stored.dtype == np.uint32
    np.testing.assert_array_equal(stored, expected)
    assert of_run.tolist() == [0, crc(1, DONE, [7.0, 13.5])]
    again = checksums.checksums(
        np.array([1]),
        np.array([DONE], np.uint8),
        {"train_loss": np.array([1.5]), "train_accuracy": np.array([0.01])},
    )
    assert again.tolist() == [expected[1]]


@pytest.mark.parametrize("name", ["train_loss", "status", "checksum"])
def test_a_flipped_bit_is_found_by_cell(surface, results, name):
    """The cell counts as missing, without values, and the others stay."""
    write(surface, results([0, 5, 12]))
    with h5py.File(surface, "r+") as file:
        values = file[name][...]
        values.reshape(-1).view(np.uint8)[values.itemsize * 5] ^= 2
        file[name][...] = values
    found = store.read(surface)
    assert np.flatnonzero(found.status == DONE).tolist() == [0]
    assert found.status.ravel()[5] == MISSING
    assert np.isnan(found.quantities["train_loss"].ravel()[5])
    assert found.trajectory.columns["status"].tolist() == [DONE, MISSING]
    assert [cells.tolist() for cells in store.damage.cells(surface)] == [[5], []]


def test_an_exchange_of_two_cells_is_found(surface, results):
    """The index belongs to it."""
    write(surface, results([2, 3]))
    with h5py.File(surface, "r+") as file:
        for name in ("train_loss", "train_accuracy", "checksum"):
            file[name][0] = file[name][0][[0, 1, 3, 2]]
    assert store.damage.cells(surface)[0].tolist() == [2, 3]


def test_a_changed_reason_of_a_failure_is_found(surface, results):
    """Of a failed cell there is nothing else to protect."""
    write(surface, results([4], c4="too far"))
    with h5py.File(surface, "r+") as file:
        file["failure"][1, 0] = b"too near"
        file["train_loss"][1, 0] = 5.0
    assert store.damage.cells(surface)[0].tolist() == [4]


def test_a_cell_that_is_just_written_is_no_damage(surface, results, monkeypatch):
    """Between the reading of its status and of its values a run tries a failed cell again."""
    write(surface, results([4], c4="too far"))
    later = Path(shutil.copy(surface, surface.with_name("later.h5")))
    write(later, results([4]))
    read = store.cells.Content.floats
    turns = []

    def floats(content, name, shape):
        if not turns:
            turns.append(name)
            with surface.open("r+b") as file:  # in place, as another process would
                file.write(later.read_bytes())
        return read(content, name, shape)

    monkeypatch.setattr(store.cells.Content, "floats", floats)
    found = store.read(surface)
    assert turns
    assert found.status.ravel()[4] == DONE
    assert found.quantities["train_loss"].ravel()[4] == 4.5


PUTS = 20


@pytest.mark.parametrize("before", ["missing", "failed", "done"])
@pytest.mark.parametrize("puts", range(PUTS))
def test_a_kill_leaves_no_cell_without_its_checksum(surface, results, before, puts):
    """A process is killed after any of its writes, to a cell in any state: all cells fit."""
    if before != "missing":
        write(surface, results([4, 13], **({"c4": "no"} if before == "failed" else {})))
    child = os.fork()
    if child == 0:
        put, count = Writer._put, iter(range(PUTS))

        def kill_at(writer, *arguments):
            if next(count) == puts:
                os.kill(os.getpid(), signal.SIGKILL)
            put(writer, *arguments)

        Writer._put = kill_at
        write(surface, results([4, 13]))
        os._exit(0)
    os.waitpid(child, 0)
    assert [cells.tolist() for cells in store.damage.cells(surface)] == [[], []]
    status = store.read_status(surface)
    assert status[4] in ((MISSING, DONE) if before != "failed" else (MISSING, FAILED, DONE))
    if before == "done":
        assert status[4] == DONE
        assert store.read(surface).quantities["train_loss"].ravel()[4] == 4.5


def test_a_file_without_checksums_is_as_before(surface, results):
    """An older file: nothing is compared."""
    with h5py.File(surface, "r+") as file:
        del file["checksum"], file["trajectory/checksum"]
    write(surface, results([4, 12]))
    with h5py.File(surface, "r+") as file:
        file["train_loss"][1, 0] = 5.0
    found = store.read(surface)
    assert found.status.ravel()[4] == DONE
    assert found.quantities["train_loss"].ravel()[4] == 5.0
    assert [cells.tolist() for cells in store.damage.cells(surface)] == [[], []]


def test_many_cells_are_checked_in_blocks(surface, results, monkeypatch):
    """Three cells at a time find the same."""
    monkeypatch.setattr(checksums, "_BLOCK", 3)
    write(surface, results(range(12)))
    assert store.read(surface).counts()["done"] == 12
    with h5py.File(surface, "r+") as file:
        file["train_loss"][2, 3] = 0.0
    assert store.damage.cells(surface)[0].tolist() == [11]
