"""Whether a file still is as it was laid out: a digest of its bytes, checked without HDF5.

While cells are written, no byte of a file changes but theirs, and flags of HDF5's.  So the digest
covers everything else.  It shows damage.  It does not show bad will: anybody can compute one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

NAME = "layout_digest"
OLD = 2  # the last version of surfaces without one
COLUMNS = (
    *("epoch", "source", "sha256", "learning_rate", "alpha", "beta", "distance", "length"),
    *("cosine_alpha", "cosine_beta"),
)
"""Datasets of ``trajectory`` that are laid out for good; cells fill all others."""
_MAGIC = b"lsengine layout digest 1\n"
_DIGITS = 64  # of a SHA-256
_SMALL_BYTES = 4096  # data up to this size are checked whenever a file is opened
_MOST_BYTES = 2**24  # of the digest's text
_BLOCK_BYTES = 2**20
_SEARCHED_BYTES = 2**26
_FLAGS = (20, 24)  # in HDF5's first block: who has the file open, also after he was killed
_REST = "attributes, names or other structure"
_MISFITS = (ValueError, TypeError, KeyError, OverflowError, RecursionError)
_Range = tuple[int, int]  # from a byte to the one after the last


class State(Enum):
    """What a file's digest says."""

    FITS = "fits"
    ABSENT = "absent"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Digest:
    """The text of a digest: what runs write, what is laid out for good, and where digits are."""

    cells: Sequence[tuple[str, int, int]]
    data: Sequence[tuple[str, int, int, str]]
    sha256: str
    digits: _Range

    def rest(self, size: int) -> Iterator[_Range]:
        """Give the ranges of a file that are neither cells nor data, HDF5's flags or the digits.

        Raises:
            ValueError: If ranges overlap or leave the file.
        """
        known = [(at, at + count) for _, at, count in self.cells]
        known += [(at, at + count) for _, at, count, _ in self.data]
        known += [_FLAGS, self.digits]
        end = 0
        for start, stop in (*sorted(known), (size, size)):
            if not end <= start <= stop <= size:
                raise ValueError("ranges overlap or leave the file")
            yield end, start
            end = stop


def seal(path: Path) -> None:
    """Give a file its digest, in the place of an older one; nobody else has it open.

    Raises:
        OSError, RuntimeError: If the disk refuses; HDF5 raises both.
    """
    with h5py.File(path, "r+", locking=False) as file:
        remove(file)
        cells, data = _parts(file)
        blank = _text(cells, [(*part, "0" * _DIGITS) for part in data], "0" * _DIGITS)
        dataset = file.create_dataset(NAME, data=np.array(blank, f"S{len(blank) + 1}"))
        file.flush()
        at = dataset.id.get_offset()
    with path.open("r+b") as raw:
        signed = [(n, i, count, _sha256(raw, [(i, i + count)])) for n, i, count in data]
        raw.seek(at)
        raw.write(_text(cells, signed, "0" * _DIGITS))
        raw.flush()
        digest = _read(raw, at)
        signature = _sha256(raw, digest.rest(os.fstat(raw.fileno()).st_size))
        raw.seek(digest.digits[0])
        raw.write(signature.encode())


def remove(file: h5py.File) -> None:
    """Remove the digest of an open file, if it has one."""
    if NAME in file:
        file[NAME][()] = b""  # its bytes stay in the file, as free space
        del file[NAME]
        file.flush()


def state(path: Path) -> State:
    """Return whether the digest of a regular file fits all but its cells and its large data.

    Raises:
        OSError: If the file cannot be read.
    """
    return _examined(path, whole=False)[0]


def verify(path: Path, *, whole: bool = True) -> list[str]:
    """Return what of a regular file is not as it was laid out, in words; its cells may be anything.

    Empty also if there is no digest.  Not ``whole``, large data are left out, as by `state`.

    Raises:
        OSError: If the file cannot be read.
    """
    return list(_examined(path, whole=whole)[1])


_Findings = tuple[State, tuple[str, ...]]
_seen: dict[tuple[int, int, bool], tuple[tuple[int, int], _Findings]] = {}


def _examined(path: Path, *, whole: bool) -> _Findings:
    """Return what `_examine` finds, which is remembered until the file changes."""
    with path.open("rb") as file:
        stat = os.fstat(file.fileno())
        key, version = (stat.st_dev, stat.st_ino, whole), (stat.st_size, stat.st_mtime_ns)
        known = _seen.get(key)
        if known is None or known[0] != version:
            known = _seen[key] = version, _examine(file, stat.st_size, whole)
    return known[1]


def _examine(file: BinaryIO, size: int, whole: bool) -> _Findings:
    at = _find(file, size)
    if at < 0:
        return State.ABSENT, ()
    try:
        digest = _read(file, at)
        rest = [*digest.rest(size)]
    except _MISFITS:
        return State.BROKEN, (NAME,)
    damaged = [
        name
        for name, start, count, sha256 in digest.data
        if (whole or count <= _SMALL_BYTES) and _sha256(file, [(start, start + count)]) != sha256
    ]
    if _sha256(file, rest) != digest.sha256:
        damaged.append(_REST)
    return State.BROKEN if damaged else State.FITS, tuple(damaged)


def _parts(file: h5py.File) -> tuple[list[tuple[str, int, int]], list[tuple[str, int, int]]]:
    """Return names, offsets and sizes of the datasets that runs write, and of all others."""
    cells: list[tuple[str, int, int]] = []
    data: list[tuple[str, int, int]] = []

    def sort(name: str, item: h5py.HLObject) -> None:
        if not isinstance(item, h5py.Dataset):
            return
        size, at = item.id.get_storage_size(), item.id.get_offset()
        if size and at is not None:  # else its values are among headers, or in chunks
            group, _, own = name.rpartition("/")
            is_cells = not group or (group == "trajectory" and own not in COLUMNS)
            is_cells = is_cells and "status" in file and not item.is_scale
            (cells if is_cells else data).append((name, at, size))

    file.visititems(sort)
    return cells, data


def _text(cells: Sequence[Any], data: Sequence[Any], sha256: str) -> bytes:
    content = json.dumps({"cells": cells, "data": data, "sha256": sha256})
    return _MAGIC + content.encode()


def _find(file: BinaryIO, size: int) -> int:
    """Return where the last digest of a file begins, -1 if there is none near its end.

    It is what a file gets last.
    """
    end, first = size, max(0, size - _SEARCHED_BYTES)
    while end > first:
        start = max(0, end - _BLOCK_BYTES)
        file.seek(start)
        block = file.read(end - start + len(_MAGIC) - 1)
        if (at := block.rfind(_MAGIC)) >= 0:
            return start + at
        end = start
    return -1


def _read(file: BinaryIO, at: int) -> _Digest:
    """Return the digest that begins at ``at``.

    Raises:
        Exception: One of `_MISFITS`, if it is not as `seal` makes it.
    """
    file.seek(at)
    text = b""
    while b"\0" not in text:
        block = file.read(_BLOCK_BYTES)
        if not block or len(text) > _MOST_BYTES:
            raise ValueError("it does not end")
        text += block
    text = text[: text.index(b"\0")]
    content = json.loads(text[len(_MAGIC) :])
    sha256 = content["sha256"]
    if text != _text(content["cells"], content["data"], sha256) or len(sha256) != _DIGITS:
        raise ValueError("it has another form")
    cells = [(str(n), int(i), int(count)) for n, i, count in content["cells"]]
    data = [(str(n), int(i), int(count), str(s)) for n, i, count, s in content["data"]]
    end = at + len(text) - len('"}')
    return _Digest(cells=cells, data=data, sha256=sha256, digits=(end - _DIGITS, end))


def _sha256(file: BinaryIO, ranges: Iterable[_Range]) -> str:
    """Return the SHA-256 of some bytes of a file."""
    digest = hashlib.sha256()
    for start, stop in ranges:
        file.seek(start)
        while start < stop and (block := file.read(min(_BLOCK_BYTES, stop - start))):
            digest.update(block)
            start += len(block)
    return digest.hexdigest()
