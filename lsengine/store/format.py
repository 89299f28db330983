"""Names and numbers of the surface file's format."""

from __future__ import annotations

from typing import Any

import numpy as np

FORMAT, FORMAT_VERSION = "lsengine-surface", 2
AXES = ("alpha", "beta")
FAILURE_BYTES = 160
PROVENANCE: dict[str, tuple[Any, Any]] = {
    "wall_s": (np.float64, np.nan),
    "finished": (np.float64, np.nan),
    "worker": (np.int32, -1),
    "batch": (np.int32, 0),
    "failure": (f"S{FAILURE_BYTES}", b""),
}


"""Datasets per cell that are no results: dtype and fill value."""


def directions_group(axis: str, version: int = FORMAT_VERSION) -> str:
    """Return the group of ``directions`` that holds the direction of an axis.

    Version 1 called it like the axis.  xarray cannot open that as a tree: it refuses a group
    called like a coordinate of its parents.
    """
    return axis if version == 1 else f"along_{axis}"
