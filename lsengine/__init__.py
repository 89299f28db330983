"""Distributed loss surfaces of neural networks."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from lsengine.surface import Surface

__version__ = "0.1.0"


def open(path: str | Path) -> Surface:
    """Read a surface into arrays; see `docs/PYTHON.md`.

    Args:
        path: A surface file of lsengine's, also one that is being written, or one of
            github.com/tomgoldstein/loss-landscape.

    Returns:
        What the file says of its cells, as it is now.

    Raises:
        UsageError: If there is no such file.
        SurfaceError: If it is damaged or no surface.
    """
    # Not above: importing the package is part of every command, its help included.
    from lsengine import store

    return store.read(path)
