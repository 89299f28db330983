"""Sizes of Arrow's columns from the descriptions of a file, against those that were written."""

from __future__ import annotations

import struct
from contextlib import suppress

import numpy as np
import pytest

from lsengine.data import arrow_sizes

pa = pytest.importorskip("pyarrow")
ROWS = 3000


def write(path, columns, *, is_stream=False, compression=None, rows=1000):
    """Write a table in batches of so many rows."""
    table = pa.table(columns)
    options = pa.ipc.IpcWriteOptions(compression=compression)
    new = pa.ipc.new_stream if is_stream else pa.ipc.new_file
    with pa.OSFile(str(path), "wb") as sink, new(sink, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=rows)
    return path


@pytest.mark.parametrize("is_stream", [False, True], ids=["file", "stream"])
@pytest.mark.parametrize("compression", [None, "zstd", "lz4"])
def test_sizes_are_those_of_the_numbers(tmp_path, is_stream, compression):
    """Of every batch and of dictionaries, however few bytes they are packed into."""
    numbers = {"x": np.zeros(ROWS), "y": np.zeros(ROWS, np.int16)}
    how = {"is_stream": is_stream, "compression": compression}
    path = write(tmp_path / "a.arrow", numbers, **how)
    assert arrow_sizes.taken(path) == ROWS * (8 + 2)
    assert compression is None or path.stat().st_size < ROWS
    words = pa.DictionaryArray.from_arrays(np.zeros(ROWS, np.int8), ["x" * 5000])
    path = write(tmp_path / "b.arrow", {"x": words}, **how)
    assert arrow_sizes.taken(path) == pytest.approx(ROWS + 5000, abs=50)  # its ends, too


def test_a_batch_that_is_named_twice_counts_twice(tmp_path):
    """The end of a file lists its batches: place, bytes of description and of body."""
    path = write(tmp_path / "a.arrow", {"x": np.zeros(ROWS)}, rows=ROWS // 2)
    content, with_names = path.read_bytes(), pa.ipc.open_file(path)
    assert with_names.num_record_batches == 2
    body = struct.pack("<q", ROWS // 2 * 8)
    second = content.rindex(body) - 16
    first = content.rindex(body, 0, second) - 16
    path.write_bytes(content[:second] + content[first : first + 24] + content[second + 24 :])
    assert arrow_sizes.taken(path) == ROWS * 8


@pytest.mark.parametrize("is_stream", [False, True], ids=["file", "stream"])
def test_any_damage_ends_soon(tmp_path, is_stream):
    """A number, or one message; whatever bit is another."""
    path = write(tmp_path / "a.arrow", {"x": np.arange(9.0)}, is_stream=is_stream)
    good = path.read_bytes()
    for bit in range(0, 8 * len(good), 5):
        content = bytearray(good)
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        with suppress(ValueError):  # which is all that whoever asks expects
            assert arrow_sizes.taken(path) >= 0
