"""Digests of what files hold once they are laid out."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace

import h5py
import numpy as np
import pytest

from lsengine import store
from lsengine.store import TrajectoryLayout, Writer, digest
from lsengine.store.digest import State

COUNT = 3  # checkpoints
REST = "attributes, names or other structure"


@pytest.fixture
def surface(layout, tmp_path):
    """A new surface with large directions and a trajectory."""
    columns = {"epoch": np.arange(COUNT), "alpha": np.linspace(0, 1, COUNT)}
    columns["source"] = np.full(COUNT, b"epoch.pt")
    trajectory = TrajectoryLayout(columns, ["train_loss"], {"unit": "step"})
    large = {axis: {"w": np.ones((40, 50), np.float32)} for axis in ("alpha", "beta")}
    store.create(tmp_path / "s.h5", replace(layout, directions=large, trajectory=trajectory))
    return tmp_path / "s.h5"


def text_of(path):
    """The digest of a file, as any JSON reader reads it."""
    with h5py.File(path) as file:
        text = file["layout_digest"][()]
    head, _, content = text.partition(b"\n")
    assert head == b"lsengine layout digest 1"
    return json.loads(content)


def flip(path, at):
    """Flip one bit of a file in place."""
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 4]))


def test_it_is_what_the_format_says(surface):
    """SHA-256 over the bytes, by a loop of its own: of each dataset, and of all the rest."""
    content, raw = text_of(surface), surface.read_bytes()
    facts = ["wall_s", "finished", "worker", "batch", "failure", "checksum", "status"]
    of_grid = ["train_loss", "train_accuracy", "precision_error", *facts]
    of_run = [f"trajectory/{name}" for name in ("train_loss", *facts)]
    with h5py.File(surface) as file:
        assert {name for name, *_ in content["cells"]} == {*of_grid, *of_run}
        for name, offset, size, *_ in (*content["cells"], *content["data"]):
            assert raw[offset : offset + size] == file[name][...].tobytes(), name
    rest = bytearray(b"\1" * len(raw))
    for _, offset, size, *sha256 in (*content["cells"], *content["data"]):
        assert not sha256 or sha256 == [hashlib.sha256(raw[offset : offset + size]).hexdigest()]
        rest[offset : offset + size] = bytes(size)
    digits = raw.index(content["sha256"].encode())
    rest[digits : digits + 64] = bytes(64)
    rest[20:24] = bytes(4)
    kept = bytes(b for b, is_kept in zip(raw, rest, strict=True) if is_kept)
    assert hashlib.sha256(kept).hexdigest() == content["sha256"]


def test_cells_change_nothing(surface, results):
    """Whatever runs write, the digest fits before and after."""
    assert digest.state(surface) is State.FITS
    writer = Writer(surface)
    writer.write(results([0, 3, 11], c3="too far"))
    assert digest.verify(surface) == []
    writer.close()
    assert digest.state(surface) is State.FITS
    assert digest.verify(surface) == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda file: file["alpha"].write_direct(np.array([-1, 0.0, 0.3, 1])), "alpha"),
        (lambda file: file["trajectory/source"].write_direct(np.array([b"x"] * 3)), None),
        (lambda file: file.attrs.modify("batch_size", 8), REST),
        (lambda file: file.pop("directions/along_beta"), REST),
        (lambda file: file["trajectory"].attrs.modify("unit", "epoch"), REST),
    ],
)
def test_a_change_of_what_is_laid_out_is_named(surface, change, named):
    """Coordinates, columns of a trajectory, attributes and groups."""
    with h5py.File(surface, "r+") as file:
        change(file)
    assert digest.state(surface) is State.BROKEN
    assert digest.verify(surface) == [named or "trajectory/source"]


def test_large_data_are_checked_only_on_demand(surface):
    """One bit of a direction: opening is quick, and `verify` names it."""
    offset = {name: at for name, at, *_ in text_of(surface)["data"]}
    flip(surface, offset["directions/along_alpha/w"] + 1000)
    assert digest.state(surface) is State.FITS
    assert digest.verify(surface) == ["directions/along_alpha/w"]


def test_every_bit_counts(surface, tmp_path):
    """A flipped bit anywhere but in cells is found; of the digest's own text, too."""
    content, size = text_of(surface), surface.stat().st_size
    cells = [range(20, 24), *(range(at, at + count) for _, at, count in content["cells"])]
    whole = surface.read_bytes()
    places = [
        *range(8, 64, 3),
        *range(0, size, 97),
        *range(whole.index(b"lsengine layout digest"), size, 41),
    ]
    for at in places:
        other = tmp_path / f"{at}.h5"
        shutil.copy(surface, other)
        flip(other, at)
        is_magic = whole.index(b"lsengine layout") <= at < whole.index(b'{"cells"')
        expected = State.ABSENT if is_magic else State.BROKEN
        is_cell = any(at in cell for cell in cells)
        found = digest.state(other)
        assert found is (State.FITS if is_cell else expected) or digest.verify(other), at
        other.unlink()


@pytest.mark.parametrize(
    "text",
    [b"{", b"[" * 100_000, b'{"cells": [], "data": [], "sha256": 5}', b'{"sha256": ""}', b"null"],
)
def test_other_texts_do_not_fit(surface, text):
    """Whatever is in the place of the digest's text, nothing is raised."""
    with h5py.File(surface, "r+") as file:
        del file["layout_digest"]
        file["layout_digest"] = np.bytes_(b"lsengine layout digest 1\n" + text)
    assert digest.state(surface) is State.BROKEN
    assert digest.verify(surface) == ["layout_digest"]


def test_a_file_cut_off_does_not_fit(surface):
    """Ranges that leave the file."""
    content = surface.read_bytes()
    surface.write_bytes(content[:-1])
    assert digest.state(surface) is State.BROKEN


def test_a_file_without_one(tmp_path):
    """Another program's file, or an older one."""
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["status"] = np.zeros(4, np.uint8)
    assert digest.state(tmp_path / "other.h5") is State.ABSENT
    assert digest.verify(tmp_path / "other.h5") == []


def test_amending_makes_it_anew(surface):
    """The older digest is nowhere in the file."""
    store.amend(surface, {"name": "another"})
    assert digest.state(surface) is State.FITS
    assert surface.read_bytes().count(b"lsengine layout digest") == 1


def test_histories_have_one(tmp_path):
    """A file without cells: all of it is laid out for good."""
    columns = {"epoch": np.arange(2), "train_loss": np.array([1.0, 0.5])}
    history = store.records.History(
        columns=columns,
        parameters=("w",),
        layer_norms=np.ones((2, 1)),
        attributes={"epochs": 1},
        source="",
    )
    store.write_history(tmp_path / "history.h5", history)
    assert digest.state(tmp_path / "history.h5") is State.FITS
    assert text_of(tmp_path / "history.h5")["cells"] == []
    assert store.read_history(tmp_path / "history.h5").columns.keys() == columns.keys()
    with h5py.File(tmp_path / "history.h5", "r+") as file:
        file["train_loss"][0] = 2.0
    assert digest.verify(tmp_path / "history.h5") == ["train_loss"]
