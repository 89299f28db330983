"""Single values of a file: of the right type and shape, or a message that names them."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from lsengine.errors import SurfaceError
from lsengine.store.validation import Content


@pytest.fixture
def content(tmp_path):
    """A file to be filled, as it is read."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        yield Content(file, SurfaceError)


def test_an_array_is_of_its_type_and_shape(content):
    """Of a wildcard any length; everything else is refused with both."""
    content.group["x"] = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(content.floats("x", (2, None)), [[0, 1, 2], [3, 4, 5]])
    with pytest.raises(SurfaceError, match=r"x is float64 of shape \(2, 3\); expected .*\(2, 4\)"):
        content.floats("x", (2, 4))
    with pytest.raises(SurfaceError, match=r"x is float64 of shape .*; expected uint8"):
        content.array("x", (np.uint8,), (2, 3))
    with pytest.raises(SurfaceError, match="y is not there"):
        content.floats("y", (2, 3))


@pytest.mark.parametrize("value", [h5py.Empty("f8"), h5py.Empty("S3")])
def test_what_holds_no_values_is_no_array(content, value):
    """HDF5 has datasets without any space."""
    content.group["x"] = value
    with pytest.raises(SurfaceError, match="x is no dataset with values"):
        content.floats("x", (3,))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_coordinates_are_finite(content, bad):
    """One value that is not is enough."""
    content.group["x"] = np.array([0.0, bad])
    with pytest.raises(SurfaceError, match="x has values that are not finite"):
        content.finite("x", (2,))


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("text", "a", "a"),
        ("text", np.bytes_(b"a"), "a"),
        ("integer", np.int32(3), 3),
        ("number", 3, 3),
        ("number", 0.5, 0.5),
        ("text", 3, None),
        ("text", h5py.Empty("S1"), None),
        ("text", np.bytes_(b"\xff"), None),
        ("text", ["a", "b"], None),
        ("integer", 3.0, None),
        ("integer", [3], None),
        ("integer", "3", None),
        ("number", np.longdouble(3), None),
        ("number", [[1.0]], None),
    ],
)
def test_attributes_are_of_their_kind(content, kind, value, expected):
    """Others of the same type are taken as they are, or left out where they are none."""
    content.group.attrs["known"] = value
    content.group.attrs["other"] = value
    if expected is None:
        with pytest.raises(SurfaceError, match=r"attribute known is .*; expected "):
            content.attributes({"known": kind})
    else:
        assert content.attributes({"known": kind}) == {"known": expected, "other": expected}


def test_rows_of_numbers_stay_rows(content):
    """One number is a row, too."""
    content.group.attrs["a"], content.group.attrs["b"] = np.array([1.0, 2.0]), 3.0
    found = content.attributes({"a": "numbers", "b": "numbers"})
    assert (found["a"].tolist(), found["b"]) == ([1.0, 2.0], 3.0)


@pytest.mark.parametrize(
    ("text", "says"),
    [("{", "is no JSON"), ("[" * 200 + "]" * 200, "levels"), ("[" * 100_000, "levels")],
)
def test_json_is_whole_and_shallow(content, text, says):
    """What is nested as no job is never reaches who would walk through it."""
    assert content.json("x", '{"a": [1]}') == {"a": [1]}
    with pytest.raises(SurfaceError, match=says):
        content.json("x", text)


def test_texts_are_in_utf_8(content):
    """Fixed and variable lengths; numbers and other bytes are refused."""
    content.group["t"] = np.array([b"a", "\u00e4".encode()])
    content.group["v"] = "\u00e4"
    assert content.texts("t") == ("a", "\u00e4")
    assert (content.text("v"), content.text("absent")) == ("\u00e4", "")
    content.group["n"], content.group["bad"] = 3, np.bytes_(b"\xff")
    for name in ("n", "bad"):
        with pytest.raises(SurfaceError, match=f"{name} is no text"):
            content.text(name)
    with pytest.raises(SurfaceError, match="t has 2 texts; expected 3"):
        content.texts("t", 3)


def test_texts_of_one_length_stay_bytes(content):
    """Of UTF-8; numbers, texts of any length and other bytes are refused."""
    content.group["s"] = np.array(["\u00e4".encode(), b""])
    assert content.fixed_texts("s", (2,)).tolist() == ["\u00e4".encode(), b""]
    content.group["n"], content.group["v"] = [1, 2], ["a", "b"]
    content.group["bad"] = np.array([b"a", b"\xff"])
    for name, says in (("n", "int64; expected texts"), ("v", "expected"), ("bad", "in UTF-8")):
        with pytest.raises(SurfaceError, match=f"{name} is .*{says}"):
            content.fixed_texts(name, (2,))


@pytest.mark.parametrize("name", ["x" * 256, "a\x1b[2Jb", "a\nb", ""])
def test_names_can_be_printed(content, name):
    """They become names in other programs' files."""
    content.refuse_name("x" * 255)
    with pytest.raises(SurfaceError, match="no name of a quantity") as refusal:
        content.refuse_name(name)
    assert refusal.value.args[0].isprintable()
