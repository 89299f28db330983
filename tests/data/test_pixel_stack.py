"""Images in a file, of whatever types and channels they come."""

from __future__ import annotations

import itertools
from io import BytesIO

import numpy as np
import pytest

from lsengine.data import pixel_stack
from lsengine.data.pixel_stack import PixelStack

RNG = np.random.default_rng(0)
KINDS = {
    "grey": RNG.integers(0, 256, (3, 5), dtype=np.uint8),
    "colour": RNG.integers(0, 256, (3, 5, 3), dtype=np.uint8),
    "deep": RNG.integers(0, 65536, (3, 5), dtype=np.uint16),
    "floats": RNG.random((3, 5), dtype=np.float32),
}
LARGEST = {"grey": 255, "colour": 255, "deep": 65535, "floats": 1}


def _expected(kinds):
    """Return the images by a loop over pixels, of the widest type of all."""
    types = [KINDS[kind].dtype for kind in kinds]
    channels = 3 if "colour" in kinds else 1
    wide = np.float32 if np.float32 in types else (np.uint16 if np.uint16 in types else np.uint8)
    out = np.zeros((len(kinds), channels, 3, 5), wide)
    for n, kind in enumerate(kinds):
        for c, h, w in itertools.product(range(channels), range(3), range(5)):
            pixel = KINDS[kind][h, w, c] if kind == "colour" else KINDS[kind][h, w]
            if wide == np.float32:
                out[n, c, h, w] = np.float32(pixel) / np.float32(LARGEST[kind])
            else:
                out[n, c, h, w] = int(pixel) * (
                    257 if wide == np.uint16 and "de" not in kind else 1
                )
    return out


@pytest.mark.parametrize("kinds", [*itertools.permutations(KINDS, 3)])
def test_images_are_stored_in_the_widest_type_of_any(tmp_path, kinds):
    """In whatever order they come, in memory and in a file, which NumPy can read."""
    expected = _expected(kinds)
    in_memory = PixelStack(BytesIO())
    with (tmp_path / "x.npy").open("w+b") as file:
        in_file = PixelStack(file)
        for stack, kind in itertools.product((in_memory, in_file), kinds):
            stack.append(KINDS[kind])
        in_file.finish()
        in_file.describe({"key": "of this", "notes": ["\udcff"]})
    for found in (
        in_memory.in_memory(),
        np.load(tmp_path / "x.npy"),
        pixel_stack.mapped(tmp_path / "x.npy"),
    ):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    assert pixel_stack.facts(tmp_path / "x.npy") == {"key": "of this", "notes": ["\udcff"]}


@pytest.mark.parametrize("content", [b"", b"short", b"[1]" + (3).to_bytes(8, "little") * 2])
def test_files_of_another_kind_are_told(tmp_path, content):
    """A file without facts is none of these."""
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"cut|kind|Expecting|Extra|delimiter"):
        pixel_stack.facts(tmp_path / "x.npy")
