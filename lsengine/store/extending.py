"""Taking over what an older surface of the same cells already has.

Shape suffixes: C cells of the new surface that the old one has, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from lsengine.errors import EnvironmentUnfit
from lsengine.store.file import quantity_names
from lsengine.store.format import PROVENANCE
from lsengine.store.reader import read
from lsengine.surface import DONE, Surface

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
            return _copy_cells(file, surface, quantity_names(file))
    except OSError as error:
        raise EnvironmentUnfit(f"{path}: cannot be written: {error}") from error


def _copy_cells(file: h5py.File, old: Surface, quantities: Sequence[str]) -> tuple[int, int]:
    """Copy the done cells of another surface to where their coordinates lie in this one.

    A cell for which the old surface has every quantity becomes done; of the others what there
    is is filled in, and they stay missing.

    Args:
        file: Open for writing; laid out, and nobody else writes it.
        old: Of the same cell fingerprint; a plane if this is one.
        quantities: Names of this surface's.

    Returns:
        How many cells are done now, and how many have some of their quantities.
    """
    here, there = _coincident(file, old)
    done_C = old.status[there] == DONE
    here, there = tuple(i[done_C] for i in here), tuple(i[done_C] for i in there)
    shared = [name for name in quantities if name in old.quantities]
    _copy(file, {name: old.quantities[name] for name in shared}, here, there)
    count = len(here[0])
    if len(shared) < len(quantities):
        return 0, count if shared else 0
    _copy(file, {n: old.provenance[n] for n in PROVENANCE if n in old.provenance}, here, there)
    _copy(file, {"status": old.status}, here, there)
    return count, 0


def _coincident(
    file: h5py.File, old: Surface
) -> tuple[tuple[NDArray[np.int64], ...], tuple[NDArray[np.int64], ...]]:
    """Return the indices (C,) per axis of equal coordinates, in this file and in the old one.

    The only direction of a surface without repeats is the first of one that has several.
    """
    here, there = [], []
    dims = [str(dim[0].name).lstrip("/") for dim in file["status"].dims]
    for axis in dims:
        values = file[axis][...]
        known = old.axes.get(axis, np.zeros(1))
        near = np.abs(values[:, None] - known) <= _APART * max(1.0, float(np.ptp(values)))
        mine, theirs = np.nonzero(near)
        here.append(mine)
        there.append(theirs)
    grids = [np.meshgrid(*indices, indexing="ij") for indices in (here, there)]
    mine_C, theirs_C = ([g.ravel() for g in grid] for grid in grids)
    by_axis = dict(zip(dims, theirs_C, strict=True))
    first = np.zeros(len(mine_C[0]), np.int64)
    return tuple(mine_C), tuple(by_axis.get(axis, first) for axis in old.axes)


def _copy(
    file: h5py.File,
    columns: dict[str, NDArray[np.generic]],
    here: tuple[NDArray[np.int64], ...],
    there: tuple[NDArray[np.int64], ...],
) -> None:
    for name, values in columns.items():
        if name in file:
            content = file[name][...]
            content[here] = values[there]
            file[name][...] = content
    file.flush()
