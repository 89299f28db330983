"""Take digest and checksums away from a changed surface, or write them anew, as a stranger can."""

from __future__ import annotations

from pathlib import Path

import h5py

from lsengine.store import checksums, digest

_FAILURES = (OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError)


def change(path: Path, how: str) -> bool:
    """Write digest and checksums ``anew``, or leave ``none``; return whether that could be done.

    With ``bytes`` the digest alone is written anew, without HDF5, which may crash over the file.
    """
    try:
        return {"anew": _anew, "bytes": _bytes, "none": _none}[how](path)
    except _FAILURES:
        return False


def _none(path: Path) -> bool:
    with h5py.File(path, "r+") as file:
        for name in ("layout_digest", "checksum", "trajectory/checksum"):
            if name in file:
                del file[name]
    return True


def _anew(path: Path) -> bool:
    with h5py.File(path, "r+") as file:
        for group in checksums.groups(file):
            checksums.write(group, group["status"][...])
    digest.seal(path)
    return True


def _bytes(path: Path) -> bool:
    size = path.stat().st_size
    with path.open("r+b") as raw:
        found = digest._read(raw, digest._find(raw, size))
        sha256 = digest._sha256(raw, found.rest(size))
        raw.seek(found.digits[0])
        raw.write(sha256.encode())
    return True
