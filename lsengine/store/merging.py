"""Several files of one surface made into one, cell by cell."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from lsengine.errors import SurfaceError
from lsengine.store.file import in_place_of, opened, quantity_names
from lsengine.store.format import FORMAT, PROVENANCE
from lsengine.store.reader import direction_groups
from lsengine.store.scales import scale_name
from lsengine.surface import DONE, FAILED, MISSING

_GROUPS = ("", "trajectory/")
_Columns = dict[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many cells of a merged surface are done, missing and failed, checkpoints included.

    Attributes:
        missing_cells: Indices of the missing cells of the grid.
    """

    done: int
    missing: int
    failed: int
    missing_cells: tuple[int, ...]


def difference(one: Path, other: Path) -> str | None:
    """Return what of the grid and the directions differs between two files, or None.

    Raises:
        SurfaceError: If one of them is damaged.
    """
    with opened(one, FORMAT) as left, opened(other, FORMAT) as right:
        if left["status"].shape != right["status"].shape:
            return f"the grid is {left['status'].shape} there, {right['status'].shape} here"
        for axis in (scale_name(dim) for dim in left["status"].dims):
            if axis not in right or left[axis][...].tobytes() != right[axis][...].tobytes():
                return f"the coordinates of {axis} differ"
        ours, theirs = _directions(left), _directions(right)
        if ours.keys() != theirs.keys():
            return "the directions are of other parameters"
        for (axis, name), values in ours.items():
            if values[()].tobytes() != theirs[axis, name][()].tobytes():
                return f"the direction {axis} differs in {name}"
    return None


def _directions(file: h5py.File) -> dict[tuple[str, str], h5py.Dataset]:
    """Return what is stored of directions by axis and parameter, whatever the file's version."""
    groups = direction_groups(file).items()
    return {(axis, name): item for axis, group in groups for name, item in group.items()}


def merge(sources: Sequence[Path], output: Path, tolerance: float = 0.0) -> Counts:
    """Write all finished cells of several files of one surface into one, whole or not at all.

    A file that is being written may be among them: its cells' status is read before their values.

    Args:
        sources: At least one; of one job and grid (see `difference`).
        output: Made, or replaced; its lock is held.
        tolerance: How far losses of a cell that several files have may differ, relative to them;
            the first file's are taken.  With 0 all that is known of the cell must be the same bits.

    Raises:
        SurfaceError: If a file is damaged, or a cell is done in two files with other values.
        EnvironmentUnfit: If the disk is full or the folder cannot be written.
    """
    shards = [_read(path) for path in sources]
    base = next((i for i, columns in enumerate(shards) if "trajectory/status" in columns), 0)
    merged = {name: column.copy() for name, column in shards[base].items()}
    for path, columns in zip(sources, shards, strict=True):
        where = f"in {sources[base]} or a file before"
        for group in _GROUPS:
            is_there = f"{group}status" in columns
            if is_there and (problem := _take(merged, columns, group, tolerance, where)):
                raise SurfaceError(f"{path}: {problem}; remove the file that is wrong")
    with in_place_of(output) as part:
        shutil.copyfile(sources[base], part)
        with h5py.File(part, "r+", locking=False) as file:
            for name, column in merged.items():
                file[name][...] = column
            file.flush()
    status = np.concatenate(
        [merged[f"{g}status"].ravel() for g in _GROUPS if f"{g}status" in merged]
    )
    return Counts(
        done=int(np.count_nonzero(status == DONE)),
        missing=int(np.count_nonzero(status == MISSING)),
        failed=int(np.count_nonzero(status == FAILED)),
        missing_cells=tuple(np.flatnonzero(merged["status"].ravel() == MISSING).tolist()),
    )


def _read(path: Path) -> _Columns:
    """Return everything that belongs to single cells, status first."""
    with opened(path, FORMAT) as file:
        groups = [group for group in _GROUPS if f"{group}status" in file]
        columns = {f"{group}status": file[f"{group}status"][...] for group in groups}
        for group in groups:
            inner = file[group] if group else file
            names = [*_quantities(inner), *(n for n in PROVENANCE if n in inner)]
            columns |= {group + name: inner[name][...] for name in names}
        return columns | {"precision_error": file["precision_error"][...]}


def _take(
    merged: _Columns, columns: _Columns, group: str, tolerance: float, where: str
) -> str | None:
    """Take over the cells that were not done before; return how those that were differ."""
    have, theirs = merged[f"{group}status"], columns[f"{group}status"]
    both = (have == DONE) & (theirs == DONE)
    new = ((theirs == DONE) & (have != DONE)) | ((theirs == FAILED) & (have == MISSING))
    for key, column in columns.items():
        owner, _, name = key.rpartition("/")
        if name == "precision_error" or key not in merged or owner != group.rstrip("/"):
            continue
        if name not in (*PROVENANCE, "status"):
            differ_C = np.flatnonzero(both & _differ(name, merged[key], column, tolerance))
            if differ_C.size:
                ours, other = (c.ravel()[differ_C[0]] for c in (merged[key], column))
                return (
                    f"{key} of cell {differ_C[0]} is {other!r}, but {ours!r} {where}; "
                    f"{differ_C.size} cells differ"
                )
        merged[key][new] = column[new]
    if not group:
        rows = np.isnan(merged["precision_error"]).all(axis=1)
        merged["precision_error"][rows] = columns["precision_error"][rows]
    return None


def _differ(
    name: str, ours: NDArray[np.generic], theirs: NDArray[np.generic], tolerance: float
) -> NDArray[np.bool_]:
    """Return where two columns differ; not a number is equal to itself.

    Only losses are compared by tolerance: an accuracy jumps by a whole sample, and eigenvalues
    agree as well as their solver was asked to find them.
    """
    if not tolerance:
        return np.asarray(ours.view(np.uint64) != theirs.view(np.uint64))
    if not name.endswith("_loss"):
        return np.zeros(ours.shape, np.bool_)
    return np.asarray(~np.isclose(ours, theirs, rtol=tolerance, atol=0.0, equal_nan=True))


def _quantities(group: h5py.Group) -> list[str]:
    """Return the float64 datasets with a value per cell that runs fill in."""
    if isinstance(group, h5py.File):
        return quantity_names(group)
    # Of a checkpoint, what is known beforehand looks the same, and is the same in all files.
    known = {*PROVENANCE, "status", "epoch"}
    return [n for n, d in group.items() if n not in known and d.dtype == np.float64]
