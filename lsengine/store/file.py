"""How surface files are opened, checked and put in place."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lsengine.errors import EnvironmentUnfit, SurfaceError, UsageError
from lsengine.store import loss_landscape
from lsengine.store.format import FORMAT, FORMAT_VERSION, PROVENANCE

# What HDF5 and NumPy raise over rotten bytes, depending on where they are.
_DAMAGE = (OSError, LookupError, RuntimeError, ValueError, TypeError, AttributeError, MemoryError)


def has_mpi() -> bool:
    """Whether this h5py can write in parallel."""
    return bool(h5py.get_config().mpi)


@contextmanager
def in_place_of(path: Path) -> Iterator[Path]:
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


@contextmanager
def opened(path: Path, formats: tuple[str, ...] = (FORMAT,)) -> Iterator[h5py.File]:
    """Open a file for reading, and check its format."""
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
    found = loss_landscape.FORMAT if loss_landscape.is_one(file) else file.attrs.get("format")
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


def quantity_names(file: h5py.File) -> list[str]:
    """Return the names of the datasets that have one number for each cell."""
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


def axis_name(dim: Any) -> str:
    """Return the name of the coordinate that is the scale of an axis."""
    return str(dim[0].name).lstrip("/")


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
