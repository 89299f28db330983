"""Texts that HDF5 would copy from beside their heap are found by the bytes of a file."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from lsengine.store import guarded, heaps, structure

ARCHIVE = sorted((Path(__file__).parents[1] / "archive").rglob("*.h5"))
TEXT = "a text of twenty-five bytes"[:25]


@pytest.fixture
def path(tmp_path):
    """A file with texts of any length in an attribute and in a dataset, and with axes."""
    path = tmp_path / "texts.h5"
    with h5py.File(path, "w") as file:
        file.attrs["text"] = TEXT
        file["numbers"] = np.arange(3.0)
        file["axis"] = np.arange(3.0)
        file["axis"].make_scale("axis")
        file["numbers"].dims[0].attach_scale(file["axis"])
        file.create_dataset("texts", data=["one", "three", ""], dtype=h5py.string_dtype())
    return path


def _places(path):
    with structure.opened(path) as file:
        return structure.check(file, path.stat().st_size)


def _references(path):
    """Return the references of a file, and where they are."""
    content = path.read_bytes()
    return {
        at: heaps._REFERENCE.unpack_from(content, at)
        for at in heaps._references(content, _places(path))
    }


def _refused_with_any_flip(path, places, at, bits):
    good = path.read_bytes()
    for bit in range(bits):
        _flip(path, at, bit)
        with pytest.raises(structure.Unfit, match="damaged: "):
            heaps.check(path, places)
        path.write_bytes(good)


def _flip(path, at, bit):
    content = bytearray(path.read_bytes())
    content[at + bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


@pytest.mark.parametrize("path", ARCHIVE, ids=lambda path: path.stem)
def test_files_of_all_versions_are_whole(path):
    """What older versions wrote is not refused."""
    assert path.stem.startswith("loss-landscape") or len(_references(path)) >= 10
    heaps.check(path, _places(path))


def test_all_that_refers_to_a_text_is_found(path):
    """Attributes, datasets and axes refer to heaps: one text each, and one list for the axis."""
    lengths = sorted(length for length, _, _ in _references(path).values())
    assert lengths == sorted([len(TEXT), len("one"), len("three"), len(""), 1])


@pytest.mark.parametrize("layout", ["earliest", "latest"])
def test_what_hdf5_writes_is_whole(tmp_path, layout):
    """In either layout of headers, with many attributes, which have blocks of their own."""
    path = tmp_path / "many.h5"
    with h5py.File(path, "w", libver=layout) as file:
        for number in range(40):
            file.attrs[f"name {number}"] = "x" * 37 * number
    places = _places(path)
    heaps.check(path, places)
    assert guarded.problem(path) is None
    found = [*heaps._references(path.read_bytes(), places)]
    assert len(found) == (40 if layout == "earliest" else 0)


def test_a_flipped_bit_of_a_reference_is_refused(path):
    """Unless it then is no reference, or one to another object of its length."""
    places, good = _places(path), path.read_bytes()
    objects = {heap: dict(heaps._objects(good, heap)) for _, heap, _ in _references(path).values()}
    refused = 0
    for at in _references(path):
        for bit in range(128):
            _flip(path, at, bit)
            length, heap, number = heaps._REFERENCE.unpack_from(path.read_bytes(), at)
            size = objects.get(heap, {}).get(number)
            if (length or heap) and size not in (length, 8 * length):
                with pytest.raises(structure.Unfit, match="damaged: "):
                    heaps.check(path, places)
                refused += 1
            else:
                heaps.check(path, places)
            path.write_bytes(good)
    assert refused > 4 * 120


def test_a_flipped_bit_of_an_objects_length_is_refused(path):
    """HDF5 would copy as many bytes as it says, from wherever that is."""
    at = path.read_bytes().index(TEXT.encode()) - 8
    _refused_with_any_flip(path, _places(path), at, 64)


@pytest.mark.parametrize("reserved", [0, 1])
def test_a_flipped_bit_of_the_length_of_an_attributes_shape_is_refused(path, reserved):
    """HDF5 would take the value, or the reference to a text, from beside it."""
    with h5py.File(path, "r+") as file:
        file.attrs["figure"] = np.arange(3.0)
    places, good = _places(path), path.read_bytes()
    for name in (b"text\0\0\0\0", b"figure\0\0"):
        at = good.index(name)
        content = bytearray(good)
        content[at - 7] = reserved  # HDF5 does not look at this byte
        path.write_bytes(content)
        _refused_with_any_flip(path, places, at - 2, 16)


def test_an_address_without_a_length_is_refused(path):
    """HDF5 reads at the address all the same."""
    places = _places(path)
    (at,) = [at for at, (length, _, _) in _references(path).items() if length == len(TEXT)]
    content = bytearray(path.read_bytes())
    content[at : at + 4] = bytes(4)
    path.write_bytes(content)
    with pytest.raises(structure.Unfit, match="is not whole"):
        heaps.check(path, places)


def test_a_heap_that_leaves_the_file_is_refused(path):
    """Its own length is not believed."""
    places, at = _places(path), path.read_bytes().index(b"GCOL\x01") + 8
    _flip(path, at, 24)
    with pytest.raises(structure.Unfit, match="there are no texts at byte"):
        heaps.check(path, places)


def test_the_process_that_reads_first_does_not_rely_on_a_crash(path):
    """A number of an object that is not there: what HDF5 then copies depends on its memory."""
    (at,) = [at for at, (length, _, _) in _references(path).items() if length == len(TEXT)]
    _flip(path, at, 12 * 8 + 13)
    assert guarded.problem(path) == f"damaged: the text that byte {at:,} refers to is not whole"


def test_other_sizes_of_addresses_are_refused(tmp_path):
    """HDF5 can write addresses of four bytes; no library does unless it is told to."""
    plist = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    plist.set_sizes(4, 4)
    path = tmp_path / "small.h5"
    h5py.h5f.create(bytes(path), fcpl=plist).close()
    problem = guarded.problem(path)
    assert problem == "its addresses and lengths have 4 x 4 bytes; expected are 8 x 8"
