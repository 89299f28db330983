"""New surface files: all datasets at full size, contiguous, with named axes.

Shape suffixes: S samples of a curve, T checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from lsengine.store import checksums, damage, digest
from lsengine.store.file import (
    FORMAT,
    FORMAT_VERSION,
    PROVENANCE,
    add_dataset,
    add_direction,
    add_scale,
    allocate,
    directions_group,
    in_place_of,
    refuses_parallel,
    reserve,
    writable,
    writable_copy,
)
from lsengine.surface import PlaneCurve
from lsengine.surface.grid import Grid

_OVERHEAD_BYTES = 2**17  # attributes, scales and object headers


@dataclass(frozen=True, slots=True)
class TrajectoryLayout:
    """The group of a run's checkpoints, each of which is a cell after those of the grid.

    Columns (T,) are known beforehand, ``epoch`` is their scale; cells fill the quantities, float64.
    """

    columns: Mapping[str, NDArray[Any]]
    quantities: Sequence[str]
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveLayout(PlaneCurve):
    """The group of a trained curve: its parameter ``t`` (S,) at points close enough to be joined.

    The group's attributes are ``shape`` and ``bend``.
    """

    t: NDArray[np.float64]
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Everything a new surface file holds before the first cell.

    Attributes:
        quantities: Names of the float64 datasets of the grid's shape.
        directions: By axis and parameter name, real or complex, with a leading repeat axis where
            the grid has one.
        drawn: In the place of ``directions``: the digests of random ones that are drawn again, as
            `lsengine.surface.drawn.text` makes them.
        state_dict_layout: The network's state dict without its numbers: JSON, a list of name,
            shape and whether it is a parameter, in order.  Directions are written to files that
            number parameters by it.
        roles: Which parameters are biases and gains: see `lsengine.surface.parts.roles_text`.
    """

    grid: Grid
    quantities: Sequence[str]
    attributes: Mapping[str, str | int | float]
    directions: Mapping[str, Mapping[str, NDArray[Any]]] = field(default_factory=dict)
    drawn: str = ""
    trajectory: TrajectoryLayout | None = None
    curve: CurveLayout | None = None
    state_dict_layout: str = ""
    roles: str = ""


def create(path: Path, layout: Layout, *, comm: Any = None) -> str | None:
    """Lay a surface file out whole and put it in place in one step.

    The file is made under another name by the serial driver, flushed, closed, fsynced and
    renamed; a killed run leaves either no surface file or a complete empty one.  Folders are
    made, an existing file is replaced.  With ``comm``, a communicator of one process, an
    independent parallel write is tried, too.

    Returns:
        None, or why this file system or MPI refuses independent parallel writes.

    Raises:
        EnvironmentUnfit: If the disk is full or the folder cannot be written.
    """
    with in_place_of(path) as part:
        reserve(part, _size(layout))
        with h5py.File(part, "w", locking=False) as file:
            _lay_out(file, layout)
            file.flush()
        refusal = None if comm is None else refuses_parallel(part, comm)
        if refusal:
            with writable(part) as file:
                file.attrs["writing"] = "gather"
        digest.seal(part)
    return refusal


def amend(
    path: Path,
    attributes: Mapping[str, str | int | float],
    trajectory: TrajectoryLayout | None = None,
) -> None:
    """Replace root attributes of a surface file, and add checkpoints where it has none.

    A whole new file takes its place.  Its lock is held, and nobody writes it.

    Raises:
        SurfaceError: If the file is not as it was laid out.
        EnvironmentUnfit: If the disk is full or the folder cannot be written.
    """
    damage.refuse(path, cells=False)  # a new digest would hide it
    with in_place_of(path) as part:
        with writable_copy(path, part) as file:
            file.attrs.update(attributes)
            if trajectory is not None:
                _lay_out_trajectory(file.create_group("trajectory"), trajectory)
            file.flush()
            version = int(file.attrs["format_version"])
        if (
            version > digest.OLD
        ):  # programs that know older versions would leave a digest that is wrong
            digest.seal(part)


def _size(layout: Layout) -> int:
    """Return how many bytes a file will have, rather too many."""
    facts = sum(np.dtype(dtype).itemsize for dtype, _ in PROVENANCE.values())
    cells = (8 * len(layout.quantities) + facts + 5) * layout.grid.size  # and checksum and status
    arrays = [values for parameters in layout.directions.values() for values in parameters.values()]
    directions = sum(int(values.nbytes) + 1024 for values in arrays)
    checkpoints = len(layout.trajectory.columns["epoch"]) if layout.trajectory else 0
    texts = len(layout.drawn) + len(layout.state_dict_layout) + len(layout.roles)
    return int(cells + directions + texts + 1024 * checkpoints + _OVERHEAD_BYTES)


def _lay_out(file: h5py.File, layout: Layout) -> None:
    """Make everything that a surface file holds before the first cell."""
    file.attrs["format"], file.attrs["format_version"] = FORMAT, FORMAT_VERSION
    file.attrs.update(layout.attributes)
    axes = [add_scale(file, axis, values) for axis, values in layout.grid.axes.items()]
    _allocate_cells(file, layout.quantities, axes)
    names = {"precision_cell": 3, "precision_column": 4}
    scales = [add_scale(file, name, np.arange(size)) for name, size in names.items()]
    allocate(file, "precision_error", scales, np.float64, np.nan)
    if layout.directions or layout.drawn:
        group = file.create_group("directions")
        for axis, parameters in layout.directions.items():
            inner = group.create_group(directions_group(axis))
            for name, values in parameters.items():
                add_direction(group, inner, name, values)
        texts = {"state": layout.state_dict_layout, "roles": layout.roles, "drawn": layout.drawn}
        for name, text in texts.items():
            if text:
                group[name] = np.bytes_(text.encode())
    if layout.trajectory is not None:
        _lay_out_trajectory(file.create_group("trajectory"), layout.trajectory)
    if layout.curve is not None:
        _lay_out_curve(file.create_group("curve"), layout.curve)


def _allocate_cells(
    group: h5py.Group, quantities: Sequence[str], scales: Sequence[h5py.Dataset]
) -> None:
    """Make the datasets with an entry per cell."""
    for name in quantities:
        allocate(group, name, scales, np.float64, np.nan)
    for name, (dtype, fill) in PROVENANCE.items():
        allocate(group, name, scales, dtype, fill)
    allocate(group, checksums.NAME, scales, np.uint32, 0)
    allocate(group, "status", scales, np.uint8, 0)


def _lay_out_trajectory(group: h5py.Group, layout: TrajectoryLayout) -> None:
    group.attrs.update(layout.attributes)
    epoch = add_scale(group, "epoch", layout.columns["epoch"])
    for name, values in layout.columns.items():
        if name != "epoch":
            add_dataset(group, name, values, [epoch])
    _allocate_cells(group, layout.quantities, [epoch])


def _lay_out_curve(group: h5py.Group, layout: CurveLayout) -> None:
    group.attrs.update(layout.attributes)
    t = add_scale(group, "t", layout.t)
    add_dataset(group, "alpha", layout.points[:, 0], [t])
    add_dataset(group, "beta", layout.points[:, 1], [t])
    control = add_scale(group, "control", np.arange(len(layout.controls)))
    add_dataset(group, "control_alpha", layout.controls[:, 0], [control])
    add_dataset(group, "control_beta", layout.controls[:, 1], [control])
    add_dataset(group, "control_distance", layout.distance, [control])
