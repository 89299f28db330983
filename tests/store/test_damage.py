"""Verdicts on surface files, and the refusal of damaged ones."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from lsengine import store
from lsengine.errors import SurfaceError
from lsengine.store import Writer, damage, digest


@pytest.fixture
def surface(layout, results, tmp_path):
    """A plane of 3 x 4 cells, two of which are done."""
    path = tmp_path / "s.h5"
    store.create(path, layout)
    writer = Writer(path)
    writer.write(results([1, 7]))
    writer.close()
    return path


def lines(path):
    """The verdict on a file without its name, by what it is on."""
    verdict = damage.verify(path)
    first, *rest = str(verdict).splitlines()
    assert first == f"{path}:"
    assert verdict.is_damaged == ("damaged" in str(verdict))
    return {line.split()[0]: line.split(maxsplit=1)[1] for line in rest}


def test_a_sound_file(surface):
    """Each part in a line; nothing is refused."""
    assert lines(surface) == {
        "layout": "as it was laid out",
        "data": "as they were laid out",
        "cells": "2 finished, all fit their checksums",
    }
    damage.refuse(surface)


def test_what_is_damaged_is_named(surface):
    """Coordinates and cells, each in its line; the refusal names the first."""
    with h5py.File(surface, "r+") as file:
        file["beta"][0] += 0.25
        file["train_loss"][1, 3] = 0.0
    found = lines(surface)
    assert found["layout"] == "damaged: beta"
    assert found["cells"] == "damaged: cells 7"
    with pytest.raises(SurfaceError, match="changed since it was laid out: beta; put a copy"):
        damage.refuse(surface)


def test_damaged_cells_are_refused_or_left_to_the_caller(surface):
    """A run that evaluates them again does not mind them."""
    with h5py.File(surface, "r+") as file:
        file["train_loss"][...] = 0.0
    with pytest.raises(SurfaceError, match=r"cells 1, 7 do not fit .* --retry-failed"):
        damage.refuse(surface)
    damage.refuse(surface, cells=False)


def test_readers_warn_once_and_go_on(surface, caplog):
    """Of the layout and of cells, however often they read."""
    with h5py.File(surface, "r+") as file:
        file.attrs["name"] = "another"
        file["train_loss"][1, 3] = 0.0
    for _ in range(3):
        found = store.read(surface)
    assert found.counts() == {"done": 1, "missing": 11, "failed": 0}
    assert [record.message for record in caplog.records] == [
        f"{surface}: damaged: changed since it was laid out: attributes, names or other structure",
        f"{surface}: damaged: cells 7 do not fit their checksums; taken as missing",
    ]


def test_directions_of_a_damaged_file_are_refused(surface):
    """One number of a direction."""
    with h5py.File(surface, "r+") as file:
        file["directions/along_alpha/scale"][()] = np.float32(4.0)
    with pytest.raises(SurfaceError, match="directions/along_alpha/scale"):
        store.read_directions(surface)


def test_a_file_without_digest_and_checksums_is_told_of(surface, caplog):
    """An older file."""
    with h5py.File(surface, "r+") as file:
        digest.remove(file)
        del file["checksum"]
        file.attrs["format_version"] = 2
    found = lines(surface)
    assert found["layout"].startswith("no digest to compare with")
    assert found["cells"] == "2 finished, no checksums to compare with"
    for _ in range(2):
        damage.refuse(surface)
    (record,) = caplog.records
    assert record.message.startswith(f"{surface}: has no digest of its layout")


def test_amending_a_damaged_file_is_refused(surface):
    """A new digest would hide the damage."""
    with h5py.File(surface, "r+") as file:
        file["alpha"][0] += 0.25
    before = surface.read_bytes()
    with pytest.raises(SurfaceError, match="laid out: alpha"):
        store.amend(surface, {"name": "another"})
    assert surface.read_bytes() == before


def test_a_file_of_today_without_a_digest_is_damaged(surface):
    """From version 3 on every surface has one."""
    with h5py.File(surface, "r+") as file:
        digest.remove(file)
    assert lines(surface)["layout"] == "damaged: layout_digest"
    with pytest.raises(SurfaceError, match="laid out: layout_digest"):
        damage.refuse(surface)
