"""Surface files as format version 1 had them."""

from __future__ import annotations

from pathlib import Path

import h5py

from lsengine.store import checksums, digest


def to_version_1(path: Path) -> Path:
    """Give the groups of directions their names of version 1, and take away what is younger."""
    with h5py.File(path, "r+") as file:
        digest.remove(file)
        for group in checksums.groups(file):
            group.pop(checksums.NAME, None)
        file.attrs["format_version"] = 1
        for axis in ("alpha", "beta"):
            if f"directions/along_{axis}" in file:
                file.move(f"directions/along_{axis}", f"directions/{axis}")
    return path


def version_of(path: Path) -> int:
    """Return a file's format version."""
    with h5py.File(path, "r") as file:
        return int(file.attrs["format_version"])
