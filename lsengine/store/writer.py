"""Who writes cells into a surface file: values first, their status last.

Shape suffixes: C cells of a new surface that an older one has, too.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from lsengine.errors import EnvironmentUnfit, SurfaceError
from lsengine.store import checksums, damage
from lsengine.store.file import FAILURE_BYTES, PROVENANCE, quantity_names, scale_name, writable
from lsengine.store.reader import read
from lsengine.surface import DONE, FAILED, MISSING, Surface

Indices = tuple[NDArray[np.int64], ...]
_Columns = dict[str, NDArray[np.generic]]
_APART = 1e-9  # of an axis's extent: coordinates that differ by rounding only


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

        return replace(
            self,
            cells=of_wanted(self.cells),
            values={name: of_wanted(column) for name, column in self.values.items()},
            wall_s=of_wanted(self.wall_s),
            finished=of_wanted(self.finished),
            batch=of_wanted(self.batch),
            failures={cell: why for cell, why in self.failures.items() if cell in cells},
        )


def contiguous_runs(cells: Sequence[int], row: int) -> list[tuple[int, int]]:
    """Split ascending cells into runs ``(start, stop)`` that stay within one row.

    Example:
        >>> contiguous_runs([0, 1, 2, 3, 7], row=3)
        [(0, 3), (3, 4), (7, 8)]
    """
    runs: list[tuple[int, int]] = []
    for cell in cells:
        if runs and runs[-1][1] == cell and cell % row:
            runs[-1] = (runs[-1][0], cell + 1)
        else:
            runs.append((cell, cell + 1))
    return runs


def _places(cells: NDArray[np.int64], dataset: h5py.Dataset) -> Iterator[tuple[Any, int]]:
    """Give the places in a dataset of one or two axes of ascending cells, and their number."""
    row = dataset.shape[-1]
    for start, stop in contiguous_runs(cells.tolist(), row):
        within = slice(start % row, (stop - 1) % row + 1)
        yield (within if dataset.ndim == 1 else (start // row, within)), stop - start


class Writer:
    """Writes results into a file that `create` has laid out.  Independent, never collective.

    The mpio driver takes ``comm``, a communicator of this process alone; without one it is the
    serial driver, and this must be the file's only writer.

    Raises:
        EnvironmentUnfit: If the file has gone.
        SurfaceError: If it cannot be opened.
    """

    def __init__(self, path: Path, comm: Any = None) -> None:
        try:
            # HDF5's flush is collective under mpio; a second descriptor syncs this process's data.
            self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # of a FIFO, too
            try:
                self._file = writable(path, comm)
            except (OSError, SurfaceError):
                os.close(self._descriptor)
                raise
        except OSError as error:
            if not path.exists():
                raise EnvironmentUnfit(
                    f"{path}: the file that this run has laid out is not there (removed, its file "
                    "system gone, or not shared by this host); bring it back and run the same again"
                ) from None
            raise SurfaceError(f"{path}: cannot be opened for writing: {error}") from error
        self._is_serial, self._is_abandoned = comm is None, False
        self._names = set(quantity_names(self._file))
        names = [*self._names, *PROVENANCE, checksums.NAME, "status"]
        self._datasets = {name: self._file[name] for name in names if name in self._file}
        for name, dataset in self._file.get("trajectory", {}).items():
            self._datasets[f"trajectory/{name}"] = dataset
        self._size = self._file["status"].size
        groups = {"": self._file, "trajectory/": self._file.get("trajectory")}
        self._quantities = {g: checksums.names_in(of) for g, of in groups.items() if of is not None}

    def write(self, results: CellResults) -> None:
        """Store the values of cells, then mark them done or failed.

        Raises:
            EnvironmentUnfit: If the disk refuses the data.
        """
        cells = sorted(results.cells)
        count = sum(cell < self._size for cell in cells)  # of the grid; the rest are checkpoints
        try:
            for group, of_group in (("", cells[:count]), ("trajectory/", cells[count:])):
                if of_group:
                    self._store(results, group, of_group)
            if results.precision_error:
                self._file["precision_error"][...] = np.array(results.precision_error)
                self._sync()
        except (OSError, RuntimeError) as error:
            self._abandon()
            reason = " ".join(str(error).split())  # HDF5's own words go over several lines
            raise EnvironmentUnfit(
                f"{self._file.filename}: cannot be written: {reason}; cells finished before are "
                "safe; the same command goes on from them"
            ) from error

    def _store(self, results: CellResults, group: str, cells: list[int]) -> None:
        """Store ascending cells of one group: values and checksums first, their status last."""
        failed, first = results.failures, self._size if group else 0
        done = [c for c in cells if c not in failed]
        position = {cell: i for i, cell in enumerate(results.cells)}
        quantities = [name for name in results.values if group + name in self._datasets]
        known = self._names | {n.partition("/")[2] for n in self._datasets if "/" in n}
        complete = group or set(quantities) == self._names
        if done and not (complete and results.values.keys() <= known):
            raise ValueError(f"results have {sorted(results.values)}, not {sorted(self._names)}")
        status = np.array([FAILED if c in failed else DONE for c in cells], np.uint8)
        indices = np.array(cells, np.int64) - first
        is_done = status == DONE
        values = {name: np.full(len(cells), np.nan) for name in self._quantities[group]}
        for name in quantities:
            values[name][is_done] = [results.values[name][position[c]] for c in done]
        columns = self._provenance(results, cells, [position[c] for c in cells])
        columns[checksums.NAME] = checksums.checksums(indices, status, values, columns["failure"])
        self._unmark(f"{group}status", indices, status)
        for name in quantities:
            self._put(group + name, indices[is_done], values[name][is_done])
        for name, column in columns.items():
            if group + name in self._datasets:  # older files have fewer
                self._put(group + name, indices, column)
        self._sync()
        self._put(f"{group}status", indices, status)
        self._sync()

    def _provenance(
        self, results: CellResults, cells: list[int], order: list[int]
    ) -> dict[str, NDArray[Any]]:
        """Return what is known of cells besides their values, in this ``order`` of the results."""
        reasons = [results.failures.get(c, "") for c in cells]
        texts = [reason.encode(errors="replace")[:FAILURE_BYTES] for reason in reasons]
        return {
            "wall_s": np.array(results.wall_s, np.float64)[order],
            "finished": np.array(results.finished, np.float64)[order],
            "batch": np.array(results.batch or [0] * len(results.cells), np.int32)[order],
            "worker": np.full(len(cells), results.worker, np.int32),
            "failure": np.array(texts, f"S{FAILURE_BYTES}"),
        }

    def _unmark(self, name: str, indices: NDArray[np.int64], status: NDArray[np.uint8]) -> None:
        """Call cells missing that have another status, and those that failed before.

        Else a process killed between values and status would leave a cell whose checksum is not
        of its status.
        """
        before = self._get(name, indices)
        changes = (before != MISSING) & ((before != status) | (before == FAILED))
        if changes.any():
            self._put(name, indices[changes], np.full(np.count_nonzero(changes), MISSING, np.uint8))
            self._sync()

    def close(self) -> None:
        """Close the file; not collective, because no other process shares the handle."""
        os.close(self._descriptor)
        if not self._is_abandoned:
            self._file.close()

    def _abandon(self) -> None:
        """Never let go of a file whose disk refused to write.

        When h5py collects a file it closes the file, and HDF5 then flushes once more what it could
        not write.  That fails as well: with a traceback that nobody can catch ("Exception ignored
        in ObjectID.__dealloc__"), and in the end with a crash of the process.  One reference too
        many keeps the collector away, at the end of the interpreter as well.
        """
        self._is_abandoned = True
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self))

    def _put(self, name: str, cells: NDArray[np.int64], values: NDArray[Any]) -> None:
        dataset, first = self._datasets[name], 0
        for place, count in _places(cells, dataset):
            dataset[place] = values[first : first + count]
            first += count

    def _get(self, name: str, cells: NDArray[np.int64]) -> NDArray[Any]:
        dataset = self._datasets[name]
        parts = [dataset[place] for place, _ in _places(cells, dataset)]
        return np.concatenate(parts) if parts else np.empty(0, dataset.dtype)

    def _sync(self) -> None:
        if self._is_serial:
            self._file.flush()
        os.fsync(self._descriptor)


def adopt(path: Path, old: Path) -> tuple[int, int]:
    """Take over the done cells of an old surface of the same cell fingerprint.

    Nobody writes ``path``; its lock is held.

    Returns:
        How many cells are done now, and how many more have some of their quantities.

    Raises:
        SurfaceError: If the old surface is damaged.
        EnvironmentUnfit: If the disk refuses the data.
    """
    damage.refuse(old)
    surface = read(old)
    try:
        with writable(path) as file:
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
    status = file["status"][...]
    if len(shared) == len(quantities):
        _copy(file, {n: old.provenance[n] for n in PROVENANCE if n in old.provenance}, *cells)
        status[cells[0]] = DONE
    checksums.write(file, status)  # its indices are other ones; before status
    file.flush()
    if len(shared) < len(quantities):
        return 0, count if shared else 0
    file["status"][...] = status
    file.flush()
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
