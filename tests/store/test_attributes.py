"""What a surface file says of itself, each of its type."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest

from lsengine import store
from lsengine.errors import SurfaceError

DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("created", h5py.Empty("f4")),
        ("device_kind", np.array([1, 2])),
        ("precision", 3),
        ("batch_size", "x"),
        ("batch_size", 0),
        ("threads", -1),
        ("cells_per_pass", 1.0),
        ("direction_cosine", "x"),
        ("train_loss_ends", np.zeros(3)),
        ("identity", DEEP),
        ("identity", "[]"),
        ("identity", json.dumps({"directions": {"alpha": ["kind"]}})),
        ("identity", json.dumps({"directions": {"alpha": {"ignore": "bias"}}})),
        ("identity", json.dumps({"code": 3})),
        ("metrics", json.dumps({"brier": 1})),
        ("metrics", json.dumps([1])),
        ("twin", json.dumps({"train": [[]]})),
        ("twin", "{"),
        ("direction_sizes", "[]"),
        ("direction_sizes", json.dumps({"gamma": {"lengths": {}, "zero_filters": 0}})),
        ("direction_sizes", json.dumps({"alpha": {"lengths": {}, "zero_filters": -1}})),
        ("direction_sizes", json.dumps({"alpha": {"lengths": [1.0], "zero_filters": 0}})),
        *(
            ("direction_sizes", json.dumps({"alpha": {"lengths": lengths, "zero_filters": 0}}))
            for lengths in ({"weights": 10**400}, {"weights": -1.0}, {"\x1b": 1.0})
        ),
    ],
)
def test_an_attribute_of_another_type_is_refused_by_name(layout, tmp_path, name, value):
    """By whoever reads them, whether it needs this one or not."""
    store.create(tmp_path / "s.h5", layout)
    with h5py.File(tmp_path / "s.h5", "r+") as file:
        file.attrs[name] = value
    for read in (store.read, store.read_attributes):
        with pytest.raises(SurfaceError, match=rf"s\.h5: damaged: attribute {name} "):
            read(tmp_path / "s.h5")


@pytest.mark.parametrize(
    ("name", "text", "read"),
    [
        ("state", "{", store.read_state),
        ("state", json.dumps([["w", [-1], True]]), store.read_state),
        ("state", json.dumps([["w", [10**30], True]]), store.read_state),
        ("state", json.dumps([["w", [2]]]), store.read_parts),
        ("roles", json.dumps({"bias": 3}), store.read_parts),
        ("drawn", json.dumps({"gamma": {}}), store.read_drawn),
        ("drawn", json.dumps({"alpha": {"w": "1f"}}), store.read_drawn),
        ("drawn", DEEP, store.read_drawn),
    ],
)
def test_a_text_of_another_form_is_refused_by_name(layout, tmp_path, name, text, read):
    """So nobody who goes through it finds something else than it looks for."""
    store.create(tmp_path / "s.h5", layout)
    with h5py.File(tmp_path / "s.h5", "r+") as file:
        file["directions/state"] = np.bytes_(b'[["w", [2], true]]')
        if name == "state":
            del file["directions/state"]
        file[f"directions/{name}"] = np.bytes_(text.encode())
    with pytest.raises(SurfaceError, match=f"directions/{name} is "):
        read(tmp_path / "s.h5")


def test_a_file_without_such_texts_says_nothing(layout, tmp_path):
    """They may be left out."""
    path = tmp_path / "s.h5"
    store.create(path, layout)
    assert (store.read_state(path), store.read_drawn(path), store.read_parts(path)) == ([], {}, {})
    assert store.read(path).direction_sizes == {}
