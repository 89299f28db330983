"""Take digest and checksums away from a changed surface, or write them anew, as a stranger can."""

from __future__ import annotations

from pathlib import Path

import h5py

from lsengine.store import checksums, digest

_FAILURES = (OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError)


def change(path: Path, how: str) -> bool:
    """Write digest and checksums ``anew``, or leave ``none``; return whether that could be done."""
    try:
        return _anew(path) if how == "anew" else _none(path)
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
