"""Digests of directions, against hashes of packed numbers."""

from __future__ import annotations

import hashlib
import json
import struct

import numpy as np

from lsengine.surface import drawn


def _sha256(*numbers):
    return hashlib.sha256(struct.pack(f"<{len(numbers)}f", *numbers)).hexdigest()


def test_digests_are_of_the_numbers_in_row_major_order():
    """Whatever the order in memory, the byte order and the kind; a repeat has its own."""
    square = np.array([[1.5, 2], [3, 4]], ">f4", order="F")
    directions = {"alpha": {"w": square, "z": np.array([1 + 2j], np.complex64)}}
    expected = {"w": [_sha256(1.5, 2, 3, 4)], "z": [_sha256(1, 2)]}
    assert drawn.digests(directions, repeats=False) == {"alpha": expected}
    rows = drawn.digests({"alpha": {"w": square}}, repeats=True)
    assert rows == {"alpha": {"w": [_sha256(1.5, 2), _sha256(3, 4)]}}
    assert json.loads(drawn.text(rows)) == rows


def test_differences_are_named_by_axis_and_parameter():
    """A parameter or an axis of one side alone differs, too."""
    ours = {"alpha": {"v": ["1f"], "w": ["2e"]}, "beta": {"v": ["3d"]}}
    assert drawn.difference(ours, ours) is None
    assert drawn.difference(ours, {**ours, "beta": {"v": ["0"]}}) == ("beta", "v")
    assert drawn.difference({"alpha": ours["alpha"]}, ours) == ("beta", "v")
    assert drawn.difference({}, {"alpha": {"w": ["1f"]}}) == ("alpha", "w")
