"""Checkpoint files of torch's, looked at before torch reads them: what is in them, and how large.

Since torch 1.6 they are zip archives, in which every storage is an entry of its own.  Before,
they were pickles one after the other, and the storages behind them.
"""

from __future__ import annotations

import contextlib
import gc
import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lsengine.models import pickles
from lsengine.models.pickle_rules import TorchRules
from lsengine.models.pickle_values import Unsound

_MAGIC = 0x1950A86A20F9469CFC6C  # torch's, of files before 1.6
_VERSION = 1001
_ZIP = b"PK\x03\x04"
_END, _END64, _FINDER64 = (struct.Struct(f) for f in ("<4s4H2IH", "<4sQ2H2I4Q", "<4sIQI"))
_ENTRY, _HEADER = struct.Struct("<4s6H3I5H2I"), struct.Struct("<4s5H3I2H")
_FULL = 0xFFFFFFFF  # where the number is in the part for 64 bits
_MOST_ENTRIES = 1_000_000
_MOST_NAME = 1000  # bytes of the names of an entry
_STORED, _DEFLATED = 0, 8
_ROOM, _TIMES = 2**24, 4  # what entries may take that are compressed: bytes, and sizes of the file


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of a file.

    Attributes:
        can_map: Whether its tensors can be mapped into memory.
        foreign: The names that torch does not know, and how their objects are filled.
    """

    can_map: bool
    foreign: Mapping[str, str]


class _Entry(NamedTuple):
    """One entry of an archive: its content's place and size."""

    name: str
    start: int
    packed: int
    size: int
    method: int


def examine(path: Path) -> Found:
    """Look at a file, without making anything of what it holds.

    Raises:
        OSError: If it cannot be read.
        Unsound: If it is damaged, or would take much more memory than it has bytes.
        Foreign: If it names what must not be, or what cannot be passed over.
    """
    with path.open("rb") as file:
        if not path.stat().st_size:
            raise Unsound("damaged")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return examined(data)


def examined(data: Any) -> Found:
    """Look at the bytes of a file; see `examine`."""
    with without_collection():
        try:
            return _of_archive(data) if data[:4] == _ZIP else _of_pickles(data)
        except pickles.DAMAGE as error:
            raise Unsound("damaged") from error


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Keep Python from looking for loops among many new objects, again and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _of_archive(data: Any) -> Found:
    entries = _entries(data)
    folder = entries[0].name.partition("/")[0] if entries else ""
    by_name = {entry.name.removeprefix(f"{folder}/"): entry for entry in entries}
    if "constants.pkl" in by_name:
        return Found(False, {})  # of TorchScript, which torch refuses
    tree = by_name.get("data.pkl")
    if tree is None:
        raise Unsound("damaged")
    sizes = {
        name.removeprefix("data/"): entry.size
        for name, entry in by_name.items()
        if name.startswith("data/")
    }
    rules = TorchRules(len(data), sizes)
    pickles.walk(_content(data, tree), 0, rules, len(data))
    return Found(all(entry.method == _STORED for entry in entries), rules.foreign)


def _of_pickles(data: Any) -> Found:
    """Look at a file of before torch 1.6."""
    at = 0
    for expected in (_MAGIC, _VERSION, None):
        found, at = pickles.walk(data, at, TorchRules(len(data)), len(data))
        if expected not in (None, found):
            raise Unsound("damaged")
    rules = TorchRules(len(data))
    _, at = pickles.walk(data, at, rules, len(data))
    keys, at = pickles.walk(data, at, TorchRules(len(data)), len(data))
    if len(keys.facts) != len(rules.stored_bytes) or {*keys.facts} != rules.stored_bytes.keys():
        raise Unsound("damaged")
    if sum(8 + size for size in rules.stored_bytes.values()) > len(data) - at:
        raise Unsound("it is shorter than its tensors")
    return Found(False, rules.foreign)


def _content(data: Any, entry: _Entry) -> bytes:
    packed = bytes(data[entry.start : entry.start + entry.packed])
    if entry.method == _STORED:
        return packed
    import zlib  # torch writes nothing that is compressed

    try:
        return zlib.decompressobj(-15).decompress(packed, entry.size)
    except zlib.error as error:
        raise Unsound("damaged") from error


def _entries(data: Any) -> list[_Entry]:
    """Return the entries of an archive.

    There must be one way of reading it: the directory is at the very end, no name is there twice,
    and no two entries share bytes.
    """
    count, start = _directory(data)
    entries = []
    for _ in range(count):
        entry, start = _entry(data, start)
        entries.append(entry)
    if len({entry.name.lower() for entry in entries}) < len(entries):
        raise Unsound("two of its entries have one name")
    end = 0
    for entry in sorted(entries, key=lambda entry: entry.start):
        if entry.packed and entry.start < end:
            raise Unsound("two of its entries share bytes")
        end = max(end, entry.start + entry.packed)
    size = sum(entry.size for entry in entries if entry.method != _STORED)
    if size > _ROOM + _TIMES * len(data):
        raise Unsound(f"its compressed entries would take {size / 2**30:,.2f} GiB")
    return entries


def _directory(data: Any) -> tuple[int, int]:
    """Return how many entries there are, and where the directory begins."""
    at = len(data) - _END.size
    if at < 0:
        raise Unsound("damaged")
    mark, disk, first, here, count, size, start, comment = _END.unpack_from(data, at)
    if mark != b"PK\x05\x06" or comment:
        raise Unsound("damaged")
    end = at
    if at >= _FINDER64.size and data[at - _FINDER64.size :][:4] == b"PK\x06\x07":
        _, disk, end, _ = _FINDER64.unpack_from(data, at - _FINDER64.size)
        mark, _, _, _, disk, first, here, count, size, start = _END64.unpack_from(data, end)
        if mark != b"PK\x06\x06":
            raise Unsound("damaged")
    if disk or first or here != count or count > _MOST_ENTRIES or start + size != end:
        raise Unsound("damaged")
    return count, start


def _entry(data: Any, at: int) -> tuple[_Entry, int]:
    """Return the entry that the directory has at an offset, and the offset behind it."""
    mark, _, _, flags, method, *_, packed, size, named, more, said, _, _, _, header = (
        _ENTRY.unpack_from(data, at)
    )
    start = at + _ENTRY.size
    if mark != b"PK\x01\x02" or flags & 1 or method not in (_STORED, _DEFLATED):
        raise Unsound("damaged")
    if named > _MOST_NAME:
        raise Unsound("damaged")
    name = bytes(data[start : start + named]).decode()
    extra = bytes(data[start + named : start + named + more])
    size, packed, header = _in_64_bits(extra, [size, packed, header])
    mark, *_, own_named, own_more = _HEADER.unpack_from(data, header)
    begin = header + _HEADER.size + own_named + own_more
    if mark != _ZIP or begin + packed > len(data) or (method == _STORED and packed != size):
        raise Unsound("damaged")
    return _Entry(name, begin, packed, size, method), start + named + more + said


def _in_64_bits(extra: bytes, numbers: list[int]) -> list[int]:
    """Return sizes and offset, those that are too large for 32 bits from where they are then."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            wide = iter(struct.unpack_from(f"<{length // 8}Q", extra, at + 4))
            return [next(wide, number) if number == _FULL else number for number in numbers]
        at += 4 + length
    return numbers
