"""The head of an HDF5 file, which HDF5 itself corrects when it opens a file for writing.

It corrects fields that it does not need, and cuts the file where the head says that it ends.  So a
file whose head is not as HDF5 writes it is refused before that.

The fields: HDF5 File Format Specification, section II.A, "Format Signature and Superblock".
"""

from __future__ import annotations

import struct
from pathlib import Path

_VERSION_AT = 8
_OLD = ("free_space_version", "root_version", "reserved", "message_version", "sizes", "reserved")
_ENDS = ("base", "free_space", "end", "driver")
_ROOT = ("root_name", "root", "root_kind", "reserved", "root_tables")
_FIELDS = {
    0: ("<4BHB2HI4Q2Q2I16s", (*_OLD, "leaf", "internal", "flags", *_ENDS, *_ROOT)),
    1: (
        "<4BHB2HI2H4Q2Q2I16s",
        (*_OLD, "leaf", "internal", "flags", "chunks", "reserved", *_ENDS, *_ROOT),
    ),
    2: ("<HB4Q", ("sizes", "flags", "base", "extension", "end", "root")),
}
_FIELDS[3] = _FIELDS[2]
_NAMES = {
    "reserved": "a reserved field",
    "base": "the start of the file",
    "end": "the end of the file",
    "root_kind": "the kind of the first group",
}


def problem(path: Path, size: int) -> str:
    """Return what HDF5 would change in the head of a file of so many bytes, or nothing.

    Raises:
        OSError: If the file cannot be read.
    """
    with path.open("rb") as file:
        file.seek(_VERSION_AT)
        version, content = ord(file.read(1) or b"\xff"), file.read(96)
    if version not in _FIELDS:
        return f"its head has version {version}; expected are 0 to {max(_FIELDS)}"
    form, names = _FIELDS[version]
    if len(content) < struct.calcsize(form):
        return "it ends in its head"
    # 1 says that the first group has an index of names; so have all that h5py makes by default.
    right = {"reserved": 0, "base": 0, "end": size, "root_kind": 1}
    for name, found in zip(names, struct.unpack_from(form, content), strict=True):
        if name in right and found != right[name]:
            return f"{_NAMES[name]} in its head is {found:,}; expected {right[name]:,}"
    return ""
