"""How HDF5 files are opened, checked, and put in place of older ones."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lsengine import files
from lsengine.errors import UsageError
from lsengine.store import loss_landscape
from lsengine.store.format import KINDS, PROVENANCE

# What HDF5 and NumPy raise over rotten bytes, depending on where they are.
_DAMAGE = (OSError, LookupError, RuntimeError, ValueError, TypeError, AttributeError, MemoryError)
_BLOCK_BYTES = 2**20


def has_mpi() -> bool:
    """Whether this h5py can write in parallel."""
    return bool(h5py.get_config().mpi)


@contextmanager
def in_place_of(path: Path) -> Iterator[Path]:
    """Give a name beside a surface whose lock is held; what is written there takes its place.

    Raises:
        EnvironmentUnfit: If it cannot be written; nothing is left behind.
    """
    files.make_folder(path.parent)
    files.remove_parts(path)  # of a run that was killed here; the lock is ours now
    with files.whole(path) as part:
        yield part


def reserve(part: Path, size: int) -> None:
    """Make a file where there is room for ``size`` bytes: HDF5 crashes where there is not.

    Asking the file system for the space, and not how much is free, minds quotas, too.

    Raises:
        OSError: If there is no room.
    """
    with part.open("xb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
            return
        for start in range(0, size, _BLOCK_BYTES):  # macOS
            file.write(bytes(min(_BLOCK_BYTES, size - start)))


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
def opened(path: Path, *formats: str) -> Iterator[h5py.File]:
    """Open a file for reading, and check its format.

    Args:
        path: The file; nobody is kept from writing it.
        formats: Those that are welcome; messages speak of the first one.

    Raises:
        UsageError: If there is no such file.
        SurfaceError: If a surface file is damaged or something else; a `UsageError` for files
            of other formats.
    """
    kind = KINDS[formats[0]]
    if path.is_dir():
        raise UsageError(f"{path}: is a directory; expected a {kind.name} file")
    if not path.exists():
        raise UsageError(f'{path}: no such file; "{kind.command}" writes one')
    try:
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        raise kind.error(
            f"{path}: not a readable HDF5 file ({error}); it is damaged or of another kind; "
            "move it away"
        ) from None
    with file:
        try:
            _check_format(path, file, formats)
            yield file
        except _DAMAGE as error:
            raise kind.error(f"{path}: damaged: {type(error).__name__}: {error}") from error


def _check_format(path: Path, file: h5py.File, formats: tuple[str, ...]) -> None:
    kind = KINDS[formats[0]]
    written = loss_landscape.FORMAT if loss_landscape.is_one(file) else file.attrs.get("format")
    if written not in formats:
        raise kind.error(f"{path}: an HDF5 file, but not a {kind.name} of lsengine's")
    version = file.attrs.get("format_version", 0)
    try:
        number = int(version)
    except (TypeError, ValueError):
        raise kind.error(f"{path}: damaged: format_version is {version!r}, not a number") from None
    if number > kind.version:
        raise kind.error(
            f"{path}: format_version is {number}, this lsengine reads up to {kind.version}; "
            "install a newer lsengine"
        )


def plain(value: Any) -> Any:
    """Return an attribute's value as Python's own, where there is one."""
    if isinstance(value, bytes):
        return value.decode()
    return value.item() if isinstance(value, np.generic) else value


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
