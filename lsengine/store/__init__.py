"""The surface file: laid out whole, written cell by cell, read at any time.

The only door to HDF5 for surfaces; `docs/FORMAT.md` is its specification.  Two ways of
writing give the same bytes: with a communicator (the mpio driver; every worker for itself)
or without one (the serial driver; one process for all).

A cell's values reach the disk before its ``status`` does, so a killed process never leaves a
cell marked done without its values.

Shape suffixes: A alphas, B betas, C cells.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from lsengine.errors import EnvironmentUnfit, SurfaceError, UsageError
from lsengine.grid import Grid, contiguous_runs
from lsengine.layout import CurveLayout as CurveLayout
from lsengine.layout import Layout as Layout
from lsengine.layout import Results as Results
from lsengine.layout import TrajectoryLayout as TrajectoryLayout
from lsengine.store import ancestor, extending, groups
from lsengine.store.making import (
    FAILURE_BYTES,
    FORMAT,
    FORMAT_VERSION,
    lay_out,
    lay_out_trajectory,
    reserve,
)
from lsengine.store.making import PROVENANCE as PROVENANCE
from lsengine.surface import DONE, FAILED, Surface, Trajectory

# What HDF5 and NumPy raise over rotten bytes, depending on where they are.
_DAMAGE = (OSError, LookupError, RuntimeError, ValueError, TypeError, AttributeError, MemoryError)


def has_mpi() -> bool:
    """Whether this h5py can write in parallel."""
    return bool(h5py.get_config().mpi)


def create(path: Path, layout: Layout, *, comm: Any = None) -> str | None:
    """Lay a surface file out whole and put it in place in one step.

    The file is made under another name by the serial driver, flushed, closed, fsynced and
    renamed; a killed run leaves either no surface file or a complete empty one.

    Args:
        path: Where the file goes; folders are made, an existing file is replaced.
        layout: What it holds.
        comm: With a communicator of one process, also try an independent parallel write.

    Returns:
        None, or why this file system or MPI refuses independent parallel writes.

    Raises:
        EnvironmentUnfit: If the disk is full or the folder cannot be written.
    """
    with _in_place_of(path) as part:
        reserve(part, layout)
        with h5py.File(part, "w", locking=False) as file:
            lay_out(file, layout)
            file.flush()
        refusal = None if comm is None else refuses_parallel(part, comm)
        if refusal:
            with h5py.File(part, "r+", locking=False) as file:
                file.attrs["writing"] = "gather"
    return refusal


def amend(
    path: Path,
    attributes: Mapping[str, str | int | float],
    trajectory: TrajectoryLayout | None = None,
) -> None:
    """Add to a surface file that nobody writes, by a whole new one in its place.

    Args:
        path: The surface file; its lock is held.
        attributes: Root attributes to add or replace.
        trajectory: A group of checkpoints, for a file that has none.

    Raises:
        EnvironmentUnfit: If the disk is full or the folder cannot be written.
    """
    with _in_place_of(path) as part:
        shutil.copyfile(path, part)
        with h5py.File(part, "r+", locking=False) as file:
            file.attrs.update(attributes)
            if trajectory is not None:
                lay_out_trajectory(file.create_group("trajectory"), trajectory)
            file.flush()


def adopt(path: Path, old: Path) -> tuple[int, int]:
    """Take over the done cells of another surface; see `lsengine.store.extending`.

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
            return extending.adopt(file, surface, _quantities(file))
    except OSError as error:
        raise EnvironmentUnfit(f"{path}: cannot be written: {error}") from error


@contextmanager
def _in_place_of(path: Path) -> Iterator[Path]:
    """Give a file's name beside ``path``; what is written there then takes its place."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left_over in path.parent.glob(f".{path.name}.*.part"):
            left_over.unlink()  # of a run that was killed here; the lock is ours now
        yield part
        _fsync(part)
        part.replace(path)
        _fsync(path.parent)
    except (OSError, RuntimeError) as error:
        raise EnvironmentUnfit(f"{path}: the surface file cannot be made: {error}") from error
    finally:
        part.unlink(missing_ok=True)


def refuses_parallel(path: Path, comm: Any) -> str | None:
    """Try one independent parallel write, which changes nothing.

    Some MPI-IO layers refuse independent writes on some file systems.

    Args:
        path: A surface file that nobody is writing.
        comm: A communicator of this process alone.

    Returns:
        None if it works, else why not.
    """
    try:
        with h5py.File(path, "r+", driver="mpio", comm=comm) as file:
            first = (slice(0, 1),) * file["status"].ndim
            file["status"][first] = file["status"][first]
    except (OSError, RuntimeError, ValueError) as error:
        return str(error)
    return None


class Writer:
    """Writes results into a file that `create` has laid out.  Independent, never collective.

    Args:
        path: The surface file.
        comm: A communicator of this process alone for the mpio driver, or None for the
            serial driver (then this must be the file's only writer).

    Raises:
        EnvironmentUnfit: If the file has gone.
        SurfaceError: If it cannot be opened.
    """

    def __init__(self, path: Path, comm: Any = None) -> None:
        try:
            if comm is None:
                self._file = h5py.File(path, "r+", locking=False)
            else:
                self._file = h5py.File(path, "r+", driver="mpio", comm=comm)
            # HDF5's flush is collective under mpio; a second descriptor syncs this process's data.
            self._descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            if not path.exists():
                raise EnvironmentUnfit(
                    f"{path}: the file that this run has laid out is not there (removed, its file "
                    "system gone, or not shared by this host); bring it back and run the same again"
                ) from None
            raise SurfaceError(f"{path}: cannot be opened for writing: {error}") from error
        self._is_serial, self._is_abandoned = comm is None, False
        self._names = set(_quantities(self._file))
        names = [*self._names, *PROVENANCE, "status"]
        self._datasets = {name: self._file[name] for name in names if name in self._file}
        for name, dataset in self._file.get("trajectory", {}).items():
            self._datasets[f"trajectory/{name}"] = dataset
        self._size = self._file["status"].size

    def write(self, results: Results) -> None:
        """Store the values of cells, then mark them done or failed.

        Raises:
            EnvironmentUnfit: If the disk refuses the data.
        """
        rank_of = {cell: i for i, cell in enumerate(results.cells)}
        of_grid = [cell for cell in sorted(rank_of) if cell < self._size]
        of_run = [cell for cell in sorted(rank_of) if cell >= self._size]
        try:
            for group, cells in (("", of_grid), ("trajectory/", of_run)):
                if cells:
                    self._store(results, group, cells, rank_of)
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

    def _store(
        self, results: Results, group: str, cells: list[int], rank_of: Mapping[int, int]
    ) -> None:
        """Store ascending cells of one group, values first and their status last."""
        failed, first = results.failures, self._size if group else 0
        done = [c for c in cells if c not in failed]
        quantities = [name for name in results.values if group + name in self._datasets]
        known = self._names | {n.partition("/")[2] for n in self._datasets if "/" in n}
        complete = group or set(quantities) == self._names
        if done and not (complete and results.values.keys() <= known):
            raise ValueError(f"results have {sorted(results.values)}, not {sorted(self._names)}")
        order = [rank_of[c] for c in cells]
        columns: dict[str, NDArray[Any]] = {
            "wall_s": np.array(results.wall_s, np.float64)[order],
            "finished": np.array(results.finished, np.float64)[order],
            "batch": np.array(results.batch or [0] * len(cells), np.int32)[order],
            "worker": np.full(len(cells), results.worker, np.int32),
            "failure": np.array(
                [failed.get(c, "").encode(errors="replace")[:FAILURE_BYTES] for c in cells],
                f"S{FAILURE_BYTES}",
            ),
        }
        status = np.array([FAILED if c in failed else DONE for c in cells], np.uint8)
        places, done_places = [c - first for c in cells], [c - first for c in done]
        for name in quantities:
            values = [results.values[name][rank_of[c]] for c in done]
            self._put(group + name, done_places, np.array(values, np.float64))
        for name, column in columns.items():
            if group + name in self._datasets:  # older files have fewer
                self._put(group + name, places, column)
        self._sync()
        self._put(f"{group}status", places, status)
        self._sync()

    def close(self) -> None:
        """Close the file; not collective, because no other process shares the handle."""
        os.close(self._descriptor)
        if not self._is_abandoned:
            self._file.close()

    def _abandon(self) -> None:
        """Never let go of a file whose disk refused: closing it fails again, and loudly."""
        self._is_abandoned = True
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self))

    def _put(self, name: str, cells: Sequence[int], values: NDArray[Any]) -> None:
        dataset = self._datasets[name]
        row = dataset.shape[-1]
        first = 0
        for start, stop in contiguous_runs(cells, row):
            run = values[first : first + stop - start]
            if dataset.ndim == 1:
                dataset[start:stop] = run
            else:
                dataset[start // row, start % row : (stop - 1) % row + 1] = run
            first += stop - start

    def _sync(self) -> None:
        if self._is_serial:
            self._file.flush()
        os.fsync(self._descriptor)


def read(path: str | Path) -> Surface:
    """Read a surface, also one that is being written, or one of the ancestor's.

    ``status`` is read before the values, so that every cell it calls done has its values.

    Raises:
        UsageError: If there is no such file.
        SurfaceError: If it is damaged or no surface file.
    """
    with _opened(Path(path), formats=(FORMAT, ancestor.FORMAT)) as file:
        if ancestor.is_one(file):
            return ancestor.read(file, Path(path))
        status = file["status"][...]
        axes = {_axis_name(d): file[_axis_name(d)][...] for d in file["status"].dims}
        quantities = {name: file[name][...] for name in _quantities(file)}
        attributes = {k: groups.plain(v) for k, v in file.attrs.items()}
        provenance = {n: file[n][...] for n in PROVENANCE if n in file}
        return Surface(
            name=str(attributes.get("name", Path(path).stem)),
            source=str(path),
            axes=axes,
            quantities=quantities,
            status=status,
            provenance=provenance,
            attributes=attributes,
            trajectory=groups.trajectory(file),
            curve=groups.curve(file),
        )


def read_attributes(path: Path) -> dict[str, Any]:
    """Return the root attributes; raises like `read`."""
    with _opened(path) as file:
        return {k: groups.plain(v) for k, v in file.attrs.items()}


def read_status(path: Path) -> NDArray[np.uint8]:
    """Return ``status`` of all cells, flat, checkpoints last: (C + T,); raises like `read`."""
    with _opened(path) as file:
        status = np.asarray(file["status"][...]).ravel()
        group = file.get("trajectory", {})
        return np.concatenate([status, group["status"][...]]) if "status" in group else status


def read_grid(path: Path) -> Grid:
    """Return the coordinates; raises like `read`."""
    with _opened(path) as file:
        return Grid({_axis_name(d): file[_axis_name(d)][...] for d in file["status"].dims})


def read_trajectory(path: Path) -> Trajectory | None:
    """Return the group of checkpoints, None if there is none; raises like `read`."""
    with _opened(path) as file:
        return groups.trajectory(file)


def read_cell(path: Path, cell: int) -> dict[str, float]:
    """Return all quantities of one cell; raises like `read`."""
    with _opened(path) as file:
        at = np.unravel_index(cell, file["status"].shape)
        return {name: float(file[name][at]) for name in _quantities(file)}


def read_precision_error(path: Path) -> NDArray[np.float64]:
    """Return the comparison of a fast precision with float32, (3, 4); raises like `read`."""
    with _opened(path) as file:
        return np.asarray(file["precision_error"][...])


def read_directions(path: Path) -> dict[str, dict[str, NDArray[np.float32]]]:
    """Return the stored directions by axis and parameter name; raises like `read`.

    Of a direction file of github.com/tomgoldstein/loss-landscape the names are numbers, in the
    order of the network's parameters, or of its state dict.
    """
    with _opened(path, formats=(FORMAT, ancestor.FORMAT)) as file:
        if ancestor.is_one(file):
            return ancestor.read_directions(file)
        group = file.get("directions", {})
        return {
            axis: {name: d[...] for name, d in group[axis].items()}
            for axis in ("alpha", "beta")
            if axis in group
        }


def read_state(path: Path) -> str:
    """Return `Layout.state`, empty if the file does not say it; raises like `read`."""
    with _opened(path, formats=(FORMAT, ancestor.FORMAT)) as file:
        found = file["directions/state"][()] if "directions/state" in file else b""
        return bytes(found).decode()


@contextmanager
def _opened(path: Path, formats: tuple[str, ...] = (FORMAT,)) -> Iterator[h5py.File]:
    if path.is_dir():
        raise UsageError(f"{path}: is a directory; expected a surface file")
    if not path.exists():
        raise UsageError(f'{path}: no such file; "lsengine eval JOB" writes one')
    try:
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        raise SurfaceError(
            f"{path}: not a readable HDF5 file ({error}); it is damaged or of another kind; "
            "move it away"
        ) from None
    with file:
        try:
            _check_format(path, file, formats)
            yield file
        except _DAMAGE as error:
            raise SurfaceError(f"{path}: damaged: {type(error).__name__}: {error}") from error


def _check_format(path: Path, file: h5py.File, formats: tuple[str, ...]) -> None:
    found = ancestor.FORMAT if ancestor.is_one(file) else file.attrs.get("format")
    if found not in formats:
        raise SurfaceError(f"{path}: an HDF5 file, but not a surface of lsengine's")
    version = _version(path, file)
    if version > FORMAT_VERSION:
        raise SurfaceError(
            f"{path}: format_version is {version}, this lsengine reads up to "
            f"{FORMAT_VERSION}; install a newer lsengine"
        )


def _version(path: Path, file: h5py.File) -> int:
    found = file.attrs.get("format_version", 0)
    try:
        return int(found)
    except (TypeError, ValueError):
        raise SurfaceError(f"{path}: damaged: format_version is {found!r}, not a number") from None


def _quantities(file: h5py.File) -> list[str]:
    shape = file["status"].shape
    known = {*PROVENANCE, "status", "precision_error"}
    return [
        name
        for name, item in file.items()
        if isinstance(item, h5py.Dataset)
        and name not in known
        and item.shape == shape
        and item.dtype == np.float64
        and not item.is_scale
    ]


def _axis_name(dim: Any) -> str:
    return str(dim[0].name).lstrip("/")


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
