"""How many bytes the columns of an Arrow file take, by what it says, before they are unpacked.

PyArrow unpacks a whole batch of rows at once, and few bytes can say that they are thousands of
millions.  So sizes are read here from the descriptions of batches, which are flatbuffers.

https://arrow.apache.org/docs/format/Columnar.html#serialization-and-interprocess-communication-ipc
https://flatbuffers.dev/internals/
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_OF_A_FILE = b"ARROW1"
_CONTINUES = 0xFFFFFFFF  # before the length of a description; files of before 2019 lack it
_DICTIONARY, _BATCH = 2, 3  # kinds of descriptions
_KIND, _HEADER, _BODY_BYTES = 1, 2, 3  # fields of a description
_DICTIONARY_BATCH = 1  # of a dictionary
_BUFFERS, _COMPRESSION = 2, 3  # of a batch
_DICTIONARIES, _BATCHES = 2, 3  # of a footer
_BUFFER_BYTES, _BLOCK_BYTES = 16, 24
_UNPACKED_BYTES = 8  # before what is compressed: how long it will be, or -1 if it is not


def taken(path: Path) -> int:
    """Return how many bytes all buffers of a file or a stream take.

    Raises:
        OSError: If it cannot be read.
        ValueError: If its descriptions are damaged.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        bytes_of = _Bytes(content)
        is_file = content[: len(_OF_A_FILE)] == _OF_A_FILE
        described = _of_file(bytes_of) if is_file else _of_stream(bytes_of)
        try:
            return sum(_taken(bytes_of, *places) for places in described)
        except struct.error:
            raise ValueError("its descriptions are damaged") from None


@dataclass(frozen=True, slots=True)
class _Bytes:
    """The bytes of a file, and flatbuffers in them by the place of a table."""

    content: mmap.mmap

    def number(self, form: str, at: int) -> int:
        """Return the number at a place."""
        if at < 0:
            raise struct.error
        return int(struct.unpack_from(f"<{form}", self.content, at)[0])

    def field(self, table: int, number: int) -> int:
        """Return the place of a table's field, 0 if it is not there."""
        fields = table - self.number("i", table)
        slot = 4 + 2 * number
        offset = self.number("H", fields + slot) if slot < self.number("H", fields) else 0
        return table + offset if offset else 0

    def followed(self, at: int) -> int:
        """Return the place that is referred to."""
        return at + self.number("I", at)

    def items(self, table: int, number: int, size: int) -> Iterator[int]:
        """Give the places of the items, each of some bytes, of a field that is a vector."""
        if at := self.field(table, number):
            start = self.followed(at)
            for index in range(self.number("I", start)):
                yield start + 4 + index * size


def _of_file(content: _Bytes) -> Iterator[tuple[int, int]]:
    """Give the places of the description and of the body of each batch of a file."""
    end = len(content.content) - len(_OF_A_FILE) - 4
    footer = content.followed(end - content.number("i", end))
    for kind in (_DICTIONARIES, _BATCHES):
        for block in content.items(footer, kind, _BLOCK_BYTES):
            at = content.number("q", block)
            prefix = 8 if content.number("I", at) == _CONTINUES else 4
            yield at + prefix, at + content.number("i", block + 8)


def _of_stream(content: _Bytes) -> Iterator[tuple[int, int]]:
    at = 0
    while at + 8 <= len(content.content):
        is_new = content.number("I", at) == _CONTINUES
        start = at + (8 if is_new else 4)
        length = content.number("i", start - 4)
        if length <= 0:  # the end
            return
        body = start + length
        yield start, body
        size = content.field(content.followed(start), _BODY_BYTES)
        at = body + (max(0, content.number("q", size)) if size else 0)


def _taken(content: _Bytes, start: int, body: int) -> int:
    """Return how many bytes the buffers of one description take."""
    message = content.followed(start)
    kind, header = content.field(message, _KIND), content.field(message, _HEADER)
    if not (kind and header):
        return 0
    batch = content.followed(header)
    if content.number("B", kind) == _DICTIONARY:
        data = content.field(batch, _DICTIONARY_BATCH)
        batch = content.followed(data) if data else batch
    elif content.number("B", kind) != _BATCH:
        return 0
    is_packed = content.field(batch, _COMPRESSION) != 0
    total = 0
    for buffer in content.items(batch, _BUFFERS, _BUFFER_BYTES):
        at, size = body + content.number("q", buffer), content.number("q", buffer + 8)
        if is_packed and size >= _UNPACKED_BYTES:
            size = max(size, content.number("q", at))
        total += max(size, 0)
    return total
