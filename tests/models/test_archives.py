"""Archives are looked at before torch reads them."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import textwrap
import zipfile

import pytest
import torch

from lsengine.models import archives, checkpoint
from lsengine.models.pickle_values import Unsound
from tests.support.pickled import archive, mapping, storage, tensor
from tests.support.state_dicts import assert_same, refused, taken

COMPRESSED = zipfile.ZIP_DEFLATED


def written(path, content):
    """Write bytes, and return where."""
    path.write_bytes(content)
    return path


def sharing(count, size):
    """An archive of many entries that are all the same bytes."""
    names = [str(number) for number in range(count)]
    content = mapping(**{f"w{n}": tensor(storage(n, size // 4), [size // 4], [1]) for n in names})
    whole = archive(content, {"0": bytes(size)})
    begin = zipfile.ZipFile(io.BytesIO(whole)).start_dir
    entries = whole[begin : whole.index(b"PK\x05\x06")].split(b"PK\x01\x02")[1:]
    directory = b""
    for entry in entries[:-1]:
        directory += b"PK\x01\x02" + entry
    for name in names:
        full = f"a/data/{name}".encode()
        head = bytearray(b"PK\x01\x02" + entries[-1][:42])
        struct.pack_into("<H", head, 28, len(full))
        directory += bytes(head) + full
    total = len(entries) - 1 + count
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, total, total, len(directory), begin, 0)
    return whole[:begin] + directory + end


def twice(state):
    """An archive with two pickles of one name."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with zipfile.ZipFile(buffer, "a") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr("archive/data.pkl", mapping())
    return buffer.getvalue()


def test_archives_that_can_be_read_in_two_ways_are_refused(tmp_path, state):
    """Entries that share bytes or names, and what stands behind the directory."""
    refused(written(tmp_path / "a.pt", sharing(300, 2**16)), "two of its entries share bytes")
    refused(written(tmp_path / "b.pt", twice(state)), "two of its entries have one name")
    buffer = io.BytesIO()
    torch.save(state, buffer)
    refused(written(tmp_path / "c.pt", buffer.getvalue() + b"more"), "damaged")


def test_compressed_archives_are_bounded(tmp_path, state):
    """What another program has packed is read, its numbers beside it too; a bomb is not."""
    torch.save({"state_dict": state, "epoch": 3, "step": torch.tensor(7)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as file:
        entries = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(tmp_path / "b.pt", "w", COMPRESSED) as file:
        for name, content in entries.items():
            file.writestr(name, content)
    assert_same(taken(tmp_path / "b.pt"), state)
    assert checkpoint.numbers(tmp_path / "b.pt", key="k") == {"epoch": 3, "step": 7}
    size = 2**26
    content = mapping(weight=tensor(storage("0", size // 4), [size // 4], [1]))
    bomb = archive(content, {"0": bytes(size)}, COMPRESSED)
    refused(written(tmp_path / "c.pt", bomb), "compressed entries would take 0.06 GiB")


def test_what_is_found_says_how_to_read_it(tmp_path, state):
    """Whether it can be mapped, and which names torch does not know."""
    torch.save(state, tmp_path / "a.pt")
    assert archives.examine(tmp_path / "a.pt") == archives.Found(True, {})
    torch.save(state, tmp_path / "b.pt", _use_new_zipfile_serialization=False)
    assert archives.examine(tmp_path / "b.pt") == archives.Found(False, {})
    with pytest.raises(Unsound):
        archives.examined(b"PK\x03\x04")


def test_a_bomb_takes_no_memory(tmp_path):
    """A process with little room says what is wrong."""
    bomb = archive(mapping(weight=tensor(storage("0", 1), [10**9], [1])), {"0": bytes(4)})
    written(tmp_path / "a.pt", bomb)
    code = textwrap.dedent(f"""
        import pathlib, resource
        from lsengine.errors import UsageError
        from lsengine.models import checkpoint
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            checkpoint.load(pathlib.Path({str(tmp_path / "a.pt")!r}))
        except UsageError:
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert int(done.stdout) < 100_000  # KiB
