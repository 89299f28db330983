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
from lsengine.store.file import axis_name, in_place_of, opened, quantity_names
from lsengine.store.format import PROVENANCE
from lsengine.store.reader import direction_groups
from lsengine.surface import DONE, FAILED, MISSING

_GROUPS = ("", "trajectory/")
_Columns = dict[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class Counts:
    """How many cells of a merged surface are done, missing and failed, checkpoints included.

    Attributes:
        first_missing: Indices of some missing cells of the grid, lowest first.
    """

    done: int
    missing: int
    failed: int
    first_missing: tuple[int, ...]


def difference(one: Path, other: Path) -> str | None:
    """Return what of the grid and the directions differs between two files, or None.

    Raises:
        SurfaceError: If one of them is damaged.
    """
    with opened(one) as left, opened(other) as right:
        if left["status"].shape != right["status"].shape:
            return f"the grid is {left['status'].shape} there, {right['status'].shape} here"
        for axis in (axis_name(dim) for dim in left["status"].dims):
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


def merge(sources: Sequence[Path], output: Path) -> Counts:
    """Write all finished cells of several files of one surface into one, whole or not at all.

    A file that is being written may be among them: its cells' status is read before their values.

    Args:
        sources: At least one; of one job and grid (see `difference`).
        output: Made, or replaced; its lock is held.

    Raises:
        SurfaceError: If a file is damaged, or a cell is done in two files with other values.
        EnvironmentUnfit: If the disk is full or the folder cannot be written.
    """
    found = [_read(path) for path in sources]
    base = next((i for i, columns in enumerate(found) if "trajectory/status" in columns), 0)
    merged = {name: column.copy() for name, column in found[base].items()}
    for path, columns in zip(sources, found, strict=True):
        for group in _GROUPS:
            if f"{group}status" in columns:
                _take(merged, columns, group, (path, sources[base]))
    with in_place_of(output) as part:
        shutil.copyfile(sources[base], part)
        with h5py.File(part, "r+", locking=False) as file:
            for name, column in merged.items():
                file[name][...] = column
            file.flush()
    status = np.concatenate([merged[n].ravel() for n in _status_names(merged)])
    of_grid = np.flatnonzero(merged["status"].ravel() == MISSING)
    done, missing, failed = (int(np.count_nonzero(status == s)) for s in (DONE, MISSING, FAILED))
    return Counts(done, missing, failed, tuple(of_grid[:5].tolist()))


def _read(path: Path) -> _Columns:
    """Return everything that belongs to single cells, status first."""
    with opened(path) as file:
        names = [f"{g}status" for g in _GROUPS if f"{g}status" in file]
        columns = {name: file[name][...] for name in names}
        for group in _GROUPS:
            if f"{group}status" in columns:
                inner = file[group] if group else file
                names = [*_quantities(inner), *(n for n in PROVENANCE if n in inner)]
                columns |= {group + name: inner[name][...] for name in names}
        columns["precision_error"] = file["precision_error"][...]
        return columns


def _take(merged: _Columns, columns: _Columns, group: str, paths: tuple[Path, Path]) -> None:
    """Take over the cells that were not done before, and compare those that were."""
    name = f"{group}status"
    have, theirs = merged[name], columns[name]
    both = (have == DONE) & (theirs == DONE)
    new = ((theirs == DONE) & (have != DONE)) | ((theirs == FAILED) & (have == MISSING))
    for key, column in columns.items():
        if key == "precision_error" or key not in merged or not _is_of(group, key):
            continue
        if key.rpartition("/")[2] not in (*PROVENANCE, "status"):
            _refuse_other_values(key, merged[key], column, both, paths)
        merged[key][new] = column[new]
    if not group:
        rows = np.isnan(merged["precision_error"]).all(axis=1)
        merged["precision_error"][rows] = columns["precision_error"][rows]


def _refuse_other_values(
    key: str,
    have: NDArray[np.generic],
    theirs: NDArray[np.generic],
    both: NDArray[np.bool_],
    paths: tuple[Path, Path],
) -> None:
    """Compare byte by byte, where not a number is equal to itself."""
    differ = both & (have.view(np.uint64) != theirs.view(np.uint64))
    if differ.any():
        cell = int(np.flatnonzero(differ)[0])
        raise SurfaceError(
            f"{paths[0]}: {key} of cell {cell} is {theirs.ravel()[cell]!r}, but "
            f"{have.ravel()[cell]!r} in {paths[1]} or a file before; {np.count_nonzero(differ)} "
            "cells differ; remove the file that is wrong"
        )


def _quantities(group: h5py.Group) -> list[str]:
    """Return the float64 datasets with a value per cell that runs fill in."""
    if isinstance(group, h5py.File):
        return quantity_names(group)
    # Of a checkpoint, what is known beforehand looks the same, and is the same in all files.
    known = {*PROVENANCE, "status", "epoch"}
    return [n for n, d in group.items() if n not in known and d.dtype == np.float64]


def _is_of(group: str, key: str) -> bool:
    return key.startswith(group) if group else "/" not in key


def _status_names(columns: _Columns) -> list[str]:
    return [f"{g}status" for g in _GROUPS if f"{g}status" in columns]
