"""Cells that a new surface takes over from an older one.

Shape suffixes: C cells of the new surface that the old one has, too.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from lsengine.errors import EnvironmentUnfit
from lsengine.store.file import PROVENANCE, quantity_names
from lsengine.store.reader import read
from lsengine.store.scales import scale_name
from lsengine.surface import DONE, Surface

Indices = tuple[NDArray[np.int64], ...]
_Columns = dict[str, NDArray[np.generic]]
_APART = 1e-9  # of an axis's extent: coordinates that differ by rounding only


def adopt(path: Path, old: Path) -> tuple[int, int]:
    """Take over the done cells of another surface.

    Args:
        path: A surface file that nobody writes; its lock is held.
        old: A surface of the same cell fingerprint.

    Returns:
        How many cells are done now, and how many more have some of their quantities.

    Raises:
        EnvironmentUnfit: If the disk refuses the data.
    """
    surface = read(old)
    try:
        with h5py.File(path, "r+", locking=False) as file:
            return _copy_cells(file, surface)
    except OSError as error:
        raise EnvironmentUnfit(f"{path}: cannot be written: {error}") from error


def _copy_cells(file: h5py.File, old: Surface) -> tuple[int, int]:
    """Copy the done cells of another surface to where their coordinates lie in this one.

    A cell for which the old surface has every quantity becomes done; of the others what there
    is is filled in, and they stay missing.
    """
    quantities = quantity_names(file)
    new_cells, old_cells = _coincident(file, old)
    done_C = old.status[old_cells] == DONE
    cells = tuple(i[done_C] for i in new_cells), tuple(i[done_C] for i in old_cells)
    shared = [name for name in quantities if name in old.quantities]
    _copy(file, {name: old.quantities[name] for name in shared}, *cells)
    count = int(np.count_nonzero(done_C))
    if len(shared) < len(quantities):
        return 0, count if shared else 0
    _copy(file, {n: old.provenance[n] for n in PROVENANCE if n in old.provenance}, *cells)
    _copy(file, {"status": old.status}, *cells)
    return count, 0


def _coincident(file: h5py.File, old: Surface) -> tuple[Indices, Indices]:
    """Return the indices (C,) per axis of equal coordinates, in this file and in the old one.

    The only direction of a surface without repeats is the first of one that has several.
    """
    new_indices, old_indices = [], []
    dims = [scale_name(dim) for dim in file["status"].dims]
    for axis in dims:
        values = file[axis][...]
        known = old.axes.get(axis, np.zeros(1))
        near = np.abs(values[:, None] - known) <= _APART * max(1.0, float(np.ptp(values)))
        new_index, old_index = np.nonzero(near)
        new_indices.append(new_index)
        old_indices.append(old_index)
    new_C, old_C = (
        [axis.ravel() for axis in np.meshgrid(*indices, indexing="ij")]
        for indices in (new_indices, old_indices)
    )
    by_axis = dict(zip(dims, old_C, strict=True))
    first = np.zeros(len(new_C[0]), np.int64)
    return tuple(new_C), tuple(by_axis.get(axis, first) for axis in old.axes)


def _copy(file: h5py.File, columns: _Columns, new_cells: Indices, old_cells: Indices) -> None:
    for name, values in columns.items():
        if name in file:
            content = file[name][...]
            content[new_cells] = values[old_cells]
            file[name][...] = content
    file.flush()
