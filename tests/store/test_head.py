"""The head of a file: what HDF5 would correct by itself is refused before a file is written to."""

from __future__ import annotations

import h5py
import pytest
from h5py import h5f, h5p

from lsengine import store
from lsengine.errors import SurfaceError
from lsengine.store import digest, head
from lsengine.store import file as file_module
from tests.fuzz import stamps

BYTES = 96


def test_a_file_opened_for_writing_keeps_its_bytes_or_is_refused(layout, tmp_path):
    """Whichever bit of its head has changed, also if the digest was written anew after that."""
    good, path = tmp_path / "good.h5", tmp_path / "s.h5"
    store.create(good, layout)
    laid_out, ends = good.read_bytes(), []
    for at in range(8 * BYTES):
        content = bytearray(laid_out)
        content[at // 8] ^= 1 << at % 8
        path.write_bytes(content)
        stamps.change(path, "bytes")
        before = path.read_bytes()
        try:
            with file_module.writable(path) as file:
                file["status"][...] = file["status"][...]
        except (SurfaceError, OSError):
            ends.append("refused" if path.read_bytes() == before else f"bit {at}: changed")
        else:
            is_whole = digest.state(path) is digest.State.FITS
            ends.append("written" if is_whole else f"bit {at}: broken")
    assert set(ends) == {"refused", "written"}
    assert ends.count("refused") > 500


def _written(path, version):
    """Write a file with a head of a version; h5py cannot have one of version 1, with two more."""
    access = h5p.create(h5p.FILE_ACCESS)
    if version >= 2:
        first = h5f.LIBVER_LATEST if version == 3 else h5f.LIBVER_V18
        access.set_libver_bounds(first, h5f.LIBVER_LATEST)
    with h5py.File(h5f.create(bytes(path), h5f.ACC_TRUNC, fapl=access)) as file:
        file["x"] = [1.0, 2.0]
    content = path.read_bytes()
    if version == 1:
        end = (len(content) + 4).to_bytes(8, "little")
        content = content[:8] + b"\x01" + content[9:24] + b" \0\0\0" + content[24:]
        content = content[:44] + end + content[52:]
        path.write_bytes(content)
    return content


@pytest.mark.parametrize(
    ("version", "base", "end"), [(0, 24, 40), (1, 28, 44), (2, 12, 28), (3, 12, 28)]
)
def test_heads_of_every_version_are_read(tmp_path, version, base, end):
    """As HDF5's specification has their fields; those that HDF5 writes are taken."""
    path = tmp_path / "x.h5"
    content = _written(path, version)
    assert content[8] == version
    assert head.problem(path, len(content)) == ""
    assert "the end of the file in its head is" in head.problem(path, len(content) + 1)
    for at, says in ((base, "the start of the file"), (end, "the end of the file")):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        assert head.problem(path, len(content)).startswith(f"{says} in its head is")
    path.write_bytes(content[:8] + b"\x04" + content[9:])
    assert head.problem(path, len(content)) == "its head has version 4; expected are 0 to 3"
    path.write_bytes(content[:20])
    assert head.problem(path, 20) == "it ends in its head"
