"""What goes into a surface file, as values: what it holds when it is new, and results of cells.

Shape suffixes: C cells or control points, S samples of a curve, T checkpoints.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsengine.surface.grid import Grid


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


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveLayout:
    """A trained curve as it lies in a plane, for whoever draws it.

    Attributes:
        t: The curve's parameter at points close enough to be joined, (S,).
        points: Their alpha and beta, (S, 2).
        controls: Alpha and beta of the control points, the ends first and last, (C, 2).
        distance: Of the control points from the plane, (C,).
        attributes: Of the group: ``shape`` and ``bend``.
    """

    t: NDArray[np.float64]
    points: NDArray[np.float64]
    controls: NDArray[np.float64]
    distance: NDArray[np.float64]
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Everything a new surface file holds before the first cell.

    Attributes:
        grid: The coordinates.
        quantities: Names of the float64 datasets of the grid's shape.
        attributes: Root attributes: strings, integers or floats.
        directions: By axis and parameter name, float32, with a leading repeat axis where the
            grid has one.
        trajectory: The group of checkpoints, if there is one.
        curve: The curve whose plane it is, if it is one's.
        state_dict_layout: The network's state dict without its numbers: JSON, a list of name,
            shape and whether it is a parameter, in order.  Directions are written to files that
            number parameters by it.
    """

    grid: Grid
    quantities: Sequence[str]
    attributes: Mapping[str, str | int | float]
    directions: Mapping[str, Mapping[str, NDArray[np.float32]]] = field(default_factory=dict)
    trajectory: TrajectoryLayout | None = None
    curve: CurveLayout | None = None
    state_dict_layout: str = ""


@dataclass(slots=True, kw_only=True)
class CellResults:
    """Finished cells on their way into the file.

    Attributes:
        cells: Flat indices; those from the size of the grid on are checkpoints.
        values: One float per cell for each quantity; ignored where ``failures`` has the cell.
        wall_s: Seconds each cell took.
        finished: When each cell ended, seconds since the epoch.
        batch: Samples per forward pass where they had to be fewer than the file says, else 0.
        worker: Rank that evaluated them.
        failures: Reason by cell, for cells that raised.
        precision_error: Rows of the dataset of that name, from the worker that has measured it.
    """

    cells: list[int] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=dict)
    wall_s: list[float] = field(default_factory=list)
    finished: list[float] = field(default_factory=list)
    batch: list[int] = field(default_factory=list)
    worker: int = 0
    failures: dict[int, str] = field(default_factory=dict)
    precision_error: tuple[tuple[float, float, float, float], ...] = ()

    def of(self, cells: Collection[int]) -> CellResults:
        """Return the results of some of the cells, in the same order."""
        wanted = [i for i, cell in enumerate(self.cells) if cell in cells]

        def of_wanted(column: list[Any]) -> list[Any]:
            return [column[i] for i in wanted] if column else []

        return CellResults(
            cells=of_wanted(self.cells),
            values={name: of_wanted(column) for name, column in self.values.items()},
            wall_s=of_wanted(self.wall_s),
            finished=of_wanted(self.finished),
            batch=of_wanted(self.batch),
            worker=self.worker,
            failures={cell: why for cell, why in self.failures.items() if cell in cells},
            precision_error=self.precision_error,
        )
