"""What files must say to be read as one of ours: names and numbers of the formats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lsengine.errors import LsengineError, SurfaceError, UsageError

FORMAT, FORMAT_VERSION = "lsengine-surface", 2
HISTORY_FORMAT = "lsengine-history"
WEIGHTS_FORMAT = "lsengine-weights"
SPECTRUM_FORMAT = "lsengine-spectrum"
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One format, in words for messages.

    Attributes:
        name: What a file of this format is.
        command: What writes it.
        version: The newest that is read.
        error: What is raised where a file is damaged or of another format.
    """

    name: str
    command: str
    version: int = 1
    error: type[LsengineError] = UsageError


KINDS = {
    FORMAT: Kind(
        name="surface", command="lsengine eval JOB", version=FORMAT_VERSION, error=SurfaceError
    ),
    HISTORY_FORMAT: Kind(name="training history", command="lsengine train"),
    WEIGHTS_FORMAT: Kind(name="histogram of weights", command="lsengine histogram"),
    SPECTRUM_FORMAT: Kind(name="spectrum", command="lsengine spectrum"),
}


def directions_group(axis: str, version: int = FORMAT_VERSION) -> str:
    """Return the group of ``directions`` that holds the direction of an axis.

    Version 1 called it like the axis.  xarray cannot open that as a tree: it refuses a group
    called like a coordinate of its parents.
    """
    return axis if version == 1 else f"along_{axis}"
