"""Checksums of cells: written with their values, checked when the cells are taken over.

Shape suffixes: C cells, Q quantities.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

import h5py
import numpy as np
from numpy.typing import NDArray

from lsengine.store.digest import COLUMNS
from lsengine.store.file import PROVENANCE, quantity_names
from lsengine.surface import FAILED, MISSING

NAME = "checksum"
_BLOCK = 2**16  # cells at once
_HEAD_BYTES = 9  # index and status


@dataclass(slots=True, kw_only=True)
class Cells:
    """What a file has of the cells of its grid, or of its checkpoints.

    Attributes:
        status: Missing also where a checksum does not fit, after `sound`.
        quantities: NaN where the values are not known to be right, after `sound`.
        provenance: As the file has it.
        stored: The checksums; None if there are none.
        damaged: Flat indices of the cells that are not missing and do not fit, ascending.
    """

    status: NDArray[np.uint8]
    quantities: dict[str, NDArray[np.float64]]
    provenance: dict[str, NDArray[Any]]
    stored: NDArray[np.uint32] | None
    damaged: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    @property
    def columns(self) -> dict[str, NDArray[Any]]:
        """All but checksums, by the names of datasets."""
        return {**self.quantities, **self.provenance, "status": self.status}


def checksums(
    cells: NDArray[np.int64],
    status: NDArray[np.uint8],
    values: Mapping[str, NDArray[np.float64]],
    failures: NDArray[np.generic] | None = None,
) -> NDArray[np.uint32]:
    """Return the checksums (C,) of cells with these flat indices and columns, (C,) each.

    A missing cell has one, too, of the values that it already has.
    """
    names = sorted(values)
    kind = np.dtype([("cell", "<i8"), ("status", "u1"), ("values", "<f8", (len(names),))])
    rows = np.zeros(len(cells), kind)
    rows["cell"], rows["status"] = cells, status
    for k, name in enumerate(names):
        rows["values"][:, k] = values[name]
    raw, size = rows.tobytes(), kind.itemsize
    found = [crc32(raw[at : at + size]) for at in range(0, len(raw), size)]
    for i in np.flatnonzero(status == FAILED).tolist():
        why = b"" if failures is None else failures[i].item()
        found[i] = crc32(why, crc32(raw[i * size : i * size + _HEAD_BYTES]))
    return np.array(found, np.uint32)


def names_in(group: h5py.Group) -> list[str]:
    """Return the names of the quantities of a file's cells, or of its checkpoints."""
    if isinstance(group, h5py.File):
        return quantity_names(group)
    known = {*COLUMNS, *PROVENANCE, NAME, "status"}
    return [name for name in group if name not in known]


def groups(file: h5py.File) -> list[h5py.Group]:
    """Return where an open file has cells: at its root, and in a trajectory of checkpoints."""
    group = file.get("trajectory")
    return [file] if group is None or "status" not in group else [file, group]


def sound(read: Callable[[], Cells]) -> Cells:
    """Return cells as far as they fit their checksums; ``read`` reads them, status first.

    They are read twice if any does not fit: a run may just have written it.
    """
    cells = read()
    wrong = _misfits(cells)
    before = wrong[cells.status.ravel()[wrong] != MISSING]
    if before.size:
        cells = read()
        wrong = _misfits(cells)
        is_damaged = cells.status.ravel()[wrong] != MISSING
        cells.damaged = np.intersect1d(wrong[is_damaged], before)
    cells.status.flat[wrong] = MISSING
    for values in cells.quantities.values():
        values.flat[wrong] = np.nan
    return cells


def write(group: h5py.Group, status: NDArray[np.uint8]) -> None:
    """Give all cells of an open file the checksums that they have with this ``status``.

    A cell that is missing gets one if any of its values is known.
    """
    if NAME not in group:
        return
    cells = Cells(
        status=status,
        quantities={name: group[name][...] for name in names_in(group)},
        provenance={name: group[name][...] for name in ("failure",) if name in group},
        stored=None,
    )
    is_known = status != MISSING
    for values in cells.quantities.values():
        is_known |= ~np.isnan(values)
    sums, index = np.zeros(status.shape, np.uint32), np.flatnonzero(is_known)
    sums.flat[index] = _of(index, cells)
    group[NAME][...] = sums


def _misfits(cells: Cells) -> NDArray[np.int64]:
    """Return the cells (C,) whose values do not fit; of missing ones all without a checksum."""
    if cells.stored is None:
        return np.empty(0, np.int64)
    stored = cells.stored.ravel()
    fits = np.zeros(stored.shape, np.bool_)
    index = np.flatnonzero((cells.status.ravel() != MISSING) | (stored != 0))
    fits[index] = _of(index, cells) == stored[index]
    return np.flatnonzero(~fits)


def _of(index: NDArray[np.int64], cells: Cells) -> NDArray[np.uint32]:
    """Return the checksums (C,) that some cells have to have."""
    failures = cells.provenance.get("failure")
    found = np.zeros(len(index), np.uint32)
    for start in range(0, len(index), _BLOCK):
        part = index[start : start + _BLOCK]
        found[start : start + _BLOCK] = checksums(
            part,
            cells.status.ravel()[part],
            {name: values.ravel()[part] for name, values in cells.quantities.items()},
            None if failures is None else failures.ravel()[part],
        )
    return found
