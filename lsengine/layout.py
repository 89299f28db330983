"""What goes into a surface file, as values: its layout, and results on their way.

Shape suffixes: C cells, T checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsengine.grid import Grid


@dataclass(frozen=True, slots=True)
class TrajectoryLayout:
    """The group of a run's checkpoints, each of which is a cell after those of the grid.

    Attributes:
        columns: What is known beforehand, (T,) each; ``epoch`` is the scale.
        quantities: Names of the float64 datasets that cells fill.
        attributes: Of the group.
    """

    columns: Mapping[str, NDArray[Any]]
    quantities: Sequence[str]
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Layout:
    """Everything a new surface file holds before the first cell.

    Attributes:
        grid: The coordinates.
        quantities: Names of the float64 datasets of the grid's shape.
        attributes: Root attributes: strings, integers or floats.
        directions: By axis and parameter name, float32, with a leading repeat axis where the
            grid has one.
        trajectory: The group of checkpoints, if there is one.
    """

    grid: Grid
    quantities: Sequence[str]
    attributes: Mapping[str, str | int | float]
    directions: Mapping[str, Mapping[str, NDArray[np.float32]]] = field(default_factory=dict)
    trajectory: TrajectoryLayout | None = None


@dataclass(slots=True)
class Results:
    """Finished cells on their way into the file.

    Attributes:
        cells: Flat indices; those from the size of the grid on are checkpoints.
        values: One float per cell for each quantity; ignored where ``failures`` has the cell.
        wall_s: Seconds each cell took.
        finished: When each cell ended, seconds since the epoch.
        worker: Rank that evaluated them.
        failures: Reason by cell, for cells that raised.
    """

    cells: list[int] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=dict)
    wall_s: list[float] = field(default_factory=list)
    finished: list[float] = field(default_factory=list)
    worker: int = 0
    failures: dict[int, str] = field(default_factory=dict)
