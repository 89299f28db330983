"""Texts of any length lie in HDF5's global heaps, and HDF5 copies from there without measuring.

What lies beside a text is then copied, too.  Whether that crashes depends on where in memory it
is, so a process that reads the file first may survive, and the next one not.  So the heaps, and
what refers to them, are measured here by the bytes of the file.

Names and numbers are those of the HDF5 File Format Specification: version 1 of object headers,
which HDF5 writes unless it is asked for its latest; those of version 2 have checksums.
https://docs.hdfgroup.org/hdf5/v1_14/_f_m_t3.html
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

from lsengine.store.structure import Places, Unfit

_ALIGNED_BYTES = 8
_HEADER = struct.Struct("<BxH4xI4x")  # version, messages, bytes of the first block
_MESSAGE = struct.Struct("<HHB3x")  # type, bytes, flags
_BLOCK = struct.Struct("<QQ")  # address and bytes
_ATTRIBUTE = struct.Struct("<BxHHH")  # version, bytes of name, type and space
_TYPE_BYTES = struct.Struct("<4xI")
_SPACE = struct.Struct("<BBBB")  # version, axes, flags, and kind in version 2
_SPACE_HEAD_BYTES, _NO_VALUE = (8, 4), 2  # of version 1 and 2
_CONTINUATION, _ATTRIBUTES = 0x10, 0x0C
_OF_ANY_LENGTH = 9  # the class of a type, in four bits
_MAGIC = b"GCOL\x01"
_HEAD_BYTES = 16  # of a heap, and of an object in it
_OBJECT = struct.Struct("<HHIQ")  # number, references, nothing, bytes
_REFERENCE = struct.Struct("<IQI")  # length, address of the heap, number of the object in it
_UNITS_BYTES = (1, 8)  # of a text, and of a list of references to datasets


def check(path: Path, places: Places) -> None:
    """Measure every heap of a file that something refers to; HDF5 has read the headers before.

    Raises:
        Unfit: If a heap, or an object in it, does not end where it should, is not there, or is of
            another length than what refers to it says.
        OSError: If the file cannot be read.
    """
    heaps: dict[int, dict[int, int]] = {}
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        try:
            for at in _references(content, places):
                length, heap, number = _REFERENCE.unpack_from(content, at)
                if not (length or heap):
                    continue  # HDF5 goes by the address alone, and reads there whatever the length
                if heap not in heaps:
                    heaps[heap] = dict(_objects(content, heap))
                if heaps[heap].get(number) not in [length * unit for unit in _UNITS_BYTES]:
                    raise Unfit(f"damaged: the text that byte {at:,} refers to is not whole")
        except struct.error:
            raise Unfit("damaged: a header or a text goes on after the end of the file") from None


def _references(content: mmap.mmap, places: Places) -> Iterator[int]:
    """Give where the references of all attributes and datasets are."""
    for header in places.headers:
        if content[header] == 1:  # else it has a checksum
            for start, stop in _attributes(content, header):
                yield from range(start, stop - _REFERENCE.size + 1, _REFERENCE.size)
    for start, stop in places.texts:
        yield from range(start, stop, _REFERENCE.size)


def _attributes(content: mmap.mmap, header: int) -> Iterator[tuple[int, int]]:
    """Give the values of an object's attributes that are of any length."""
    _, _, size = _HEADER.unpack_from(content, header)
    blocks = [(header + _HEADER.size, size)]
    for at, size in blocks:
        stop = at + size
        while at + _MESSAGE.size <= stop:
            kind, size, _ = _MESSAGE.unpack_from(content, at)
            at += _MESSAGE.size
            if kind == _CONTINUATION:
                blocks.append(_BLOCK.unpack_from(content, at))
            elif kind == _ATTRIBUTES:
                version, *parts = _ATTRIBUTE.unpack_from(content, at)
                if version == 1:
                    parts = [-(-part // _ALIGNED_BYTES) * _ALIGNED_BYTES for part in parts]
                named = at + _ATTRIBUTE.size + (version == 3)  # one byte for the encoding
                described, start = named + parts[0], named + sum(parts)
                if version == 1 or content[at + 1] == 0:  # neither type nor space is kept elsewhere
                    space, values = _space(content, described + parts[1])
                    (each,) = _TYPE_BYTES.unpack_from(content, described)
                    if parts[2] not in (space, -(-space // _ALIGNED_BYTES) * _ALIGNED_BYTES) or (
                        start + values * each > at + size
                    ):
                        raise Unfit(f"damaged: the attribute at byte {at:,} is not whole")
                if content[described] & 0xF == _OF_ANY_LENGTH:
                    yield start, at + size
            at += size


def _space(content: mmap.mmap, at: int) -> tuple[int, int]:
    """Return how many bytes the description of a shape takes, and how many values the shape has.

    HDF5 believes what an attribute says of the first: the value would come from somewhere else.
    """
    version, axes, flags, scalar = _SPACE.unpack_from(content, at)
    head = _SPACE_HEAD_BYTES[version == 2]
    lengths = struct.unpack_from(f"<{axes}Q", content, at + head)
    is_empty = version == 2 and scalar == _NO_VALUE
    return head + 8 * axes * (2 if flags & 1 else 1), 0 if is_empty else math.prod(lengths)


def _objects(content: mmap.mmap, heap: int) -> Iterator[tuple[int, int]]:
    """Give number and bytes of the objects of a heap."""
    head = content[heap : heap + _HEAD_BYTES]
    stop = heap + int.from_bytes(head[8:], "little")
    if not head.startswith(_MAGIC) or stop > len(content):
        raise Unfit(f"damaged: there are no texts at byte {heap:,}")
    at = heap + _HEAD_BYTES
    while at + _HEAD_BYTES <= stop:
        number, _, _, size = _OBJECT.unpack_from(content, at)
        if number == 0:  # what is free, with its head; nothing comes after it
            at += size
            break
        yield number, size
        at += _HEAD_BYTES + -(-size // _ALIGNED_BYTES) * _ALIGNED_BYTES
    if at > stop:
        raise Unfit(f"damaged: the texts at byte {heap:,} go on after their end")
