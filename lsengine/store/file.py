"""The formats of our HDF5 files, how they are opened, checked and replaced, and their axes.

The axes of datasets have names: HDF5's dimension scales, which make a file netCDF, too.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from lsengine import files
from lsengine.errors import LsengineError, SurfaceError, UsageError
from lsengine.store import digest, guard, head, loss_landscape, structure
from lsengine.wording import short

FORMAT, FORMAT_VERSION = "lsengine-surface", 3
HISTORY_FORMAT = "lsengine-history"
WEIGHTS_FORMAT = "lsengine-weights"
SPECTRUM_FORMAT = "lsengine-spectrum"
AXES = ("alpha", "beta")
FAILURE_BYTES = 160
PROVENANCE: dict[str, tuple[Any, Any]] = {
    "wall_s": (np.float64, np.nan),
    "finished": (np.float64, np.nan),
    "worker": (np.int32, -1),
    "batch": (np.int32, 0),
    "failure": (f"S{FAILURE_BYTES}", b""),
}
"""Datasets per cell that are no results: dtype and fill value."""
# What HDF5 and NumPy raise over rotten bytes, depending on where they are.
_DAMAGE = (OSError, LookupError, RuntimeError, ValueError, TypeError, AttributeError, MemoryError)
_BLOCK_BYTES = 2**20
_looked_at: dict[tuple[int, int, bool], tuple[int, int]] = {}  # size and time of change, by place
_trusted: set[tuple[int, int, int]] = set()  # device, inode and size


@dataclass(frozen=True, slots=True)
class Kind:
    """One format for messages: what writes it, the newest version read, what bad files raise."""

    name: str
    command: str
    version: int = field(default=1, kw_only=True)
    error: type[LsengineError] = field(default=UsageError, kw_only=True)


KINDS = {
    FORMAT: Kind("surface", "lsengine eval JOB", version=FORMAT_VERSION, error=SurfaceError),
    HISTORY_FORMAT: Kind("training history", "lsengine train", version=2),
    WEIGHTS_FORMAT: Kind("histogram of weights", "lsengine histogram"),
    SPECTRUM_FORMAT: Kind("spectrum", "lsengine spectrum"),
}


def directions_group(axis: str, version: int = FORMAT_VERSION) -> str:
    """Return the group of ``directions`` that holds the direction of an axis.

    Version 1 called it like the axis.  xarray cannot open that as a tree: it refuses a group
    called like a coordinate of its parents.
    """
    return axis if version == 1 else f"along_{axis}"


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
    with files.whole(path, failures=(OSError, RuntimeError)) as part:  # HDF5 raises both
        yield part
    trust(path)


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
    """Return why one independent parallel write fails, which changes nothing; None if it works.

    Some MPI-IO layers refuse them on some file systems.  Nobody is writing the surface file, and
    ``comm`` is a communicator of this process alone.
    """
    try:
        with writable(path, comm) as file:
            first = (slice(0, 1),) * file["status"].ndim
            file["status"][first] = file["status"][first]
    except (OSError, RuntimeError, ValueError) as error:
        return str(error)
    return None


@contextmanager
def opened(path: Path, *formats: str) -> Iterator[h5py.File]:
    """Open a file for reading, keeping nobody from writing it, and check its format.

    Messages speak of the first of the welcome ``formats``.

    Raises:
        UsageError: If there is no such file.
        SurfaceError: If a surface file is damaged or something else; a `UsageError` for files
            of other formats.
    """
    kind = KINDS[formats[0]]
    if not files.is_regular(path, expected=f"a {kind.name} file"):
        raise UsageError(f'{path}: no such file; "{kind.command}" writes one')
    try:
        file = plain_file(path)
    except structure.Unfit as error:
        raise kind.error(f"{path}: {error}") from None
    except OSError as error:
        raise kind.error(f"{path}: cannot be read: {error.strerror or error}") from None
    with file:
        try:
            _check_format(path, file, formats)
            yield file
        except _DAMAGE as error:
            raise kind.error(f"{path}: damaged: {type(error).__name__}: {error}") from error


def writable(path: Path, comm: Any = None) -> h5py.File:
    """Open a file that exists for reading and writing; see `opened` for reading only.

    The mpio driver takes ``comm``, a communicator of this process alone.

    Raises:
        SurfaceError: If the file is damaged, or made of more than plain datasets.
        OSError: If it is not there or cannot be opened.
    """
    how = {"locking": False} if comm is None else {"driver": "mpio", "comm": comm}
    _refuse_unwritable(path)  # HDF5 changes what it opens for writing
    return h5py.File(path, "r+", **how)


def writable_copy(path: Path, part: Path) -> h5py.File:
    """Copy a file, and open the copy for writing; raises like `writable`."""
    _refuse_unwritable(path)
    shutil.copyfile(path, part)
    return h5py.File(part, "r+", locking=False)


def _refuse_unwritable(path: Path) -> None:
    try:
        plain_file(path, is_written=True).close()
    except structure.Unfit as error:
        raise SurfaceError(f"{path}: {error}") from None


def trust(path: Path) -> None:
    """Let no other process read a surface first, while its digest fits.

    That is for surfaces that this run has laid out, or that its first rank has looked at.  A
    fitting digest by itself proves nothing of a stranger's file: anybody can compute one.
    """
    with suppress(OSError):  # whoever opens it finds out
        found = path.stat()
        _trusted.add((found.st_dev, found.st_ino, found.st_size))


def plain_file(path: Path, *, is_written: bool = False) -> h5py.File:
    """Open any HDF5 file for reading that has only groups and plain datasets.

    What one process has looked at it does not look at again, unless the file has changed.

    Raises:
        structure.Unfit: If it has more, is damaged or no HDF5 file.
        OSError: If it is not there or the system refuses it.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):  # a FIFO would keep everybody waiting
        raise structure.Unfit("not a regular file")
    key, version = (found.st_dev, found.st_ino, is_written), (found.st_size, found.st_mtime_ns)
    if _looked_at.get(key) == version:
        return structure.opened(path)
    structure.refuse_others(path)  # before the digest is looked for
    is_trusted = is_written or (found.st_dev, found.st_ino, found.st_size) in _trusted
    if not is_trusted or digest.state(path) is not digest.State.FITS:
        guard.refuse_damaged(path)
    if is_written and (problem := head.problem(path, found.st_size)):
        raise structure.Unfit(f"damaged: {problem}; get the file anew")
    file = structure.opened(path)
    try:
        structure.check(file, found.st_size, is_written=is_written)
    except structure.Unfit:
        file.close()
        raise
    except _DAMAGE as error:
        file.close()
        raise structure.Unfit(f"damaged: {type(error).__name__}: {error}") from error
    _looked_at[key] = version
    return file


def _check_format(path: Path, file: h5py.File, formats: tuple[str, ...]) -> None:
    kind = KINDS[formats[0]]
    written = loss_landscape.FORMAT if loss_landscape.is_one(file) else file.attrs.get("format")
    if written not in formats:
        raise kind.error(f"{path}: an HDF5 file, but not a {kind.name} of lsengine's")
    version = file.attrs.get("format_version", 0)
    try:
        number = int(version)
    except (TypeError, ValueError, OverflowError):
        raise kind.error(f"{path}: damaged: format_version is {version!r}, not a number") from None
    if number < 1 and written in KINDS:
        raise kind.error(f"{path}: damaged: format_version is {number}; expected at least 1")
    if number > kind.version:
        raise kind.error(
            f"{path}: format_version is {number}, this lsengine reads up to {kind.version}; "
            "install a newer lsengine"
        )


def quantity_names(file: h5py.File) -> list[str]:
    """Return the names of the datasets that have one number for each cell."""
    shape, known = file["status"].shape, {*PROVENANCE, "status", "precision_error"}
    unknown = {n: d for n, d in file.items() if isinstance(d, h5py.Dataset) and n not in known}
    is_like = {n: d.shape == shape and d.dtype == np.float64 for n, d in unknown.items()}
    return [n for n, dataset in unknown.items() if is_like[n] and not dataset.is_scale]


def add_scale(group: h5py.Group, name: str, values: NDArray[Any]) -> h5py.Dataset:
    """Store a scale: coordinates that name an axis of other datasets."""
    scale = group.create_dataset(name, data=values)
    scale.make_scale(name)
    return scale


def add_names(group: h5py.Group, name: str, texts: Sequence[str]) -> h5py.Dataset:
    """Store a scale of texts.

    Raises:
        UsageError: If one is no text in UTF-8, or has a NUL.
    """
    for text in texts:
        if text != text.encode(errors="ignore").decode().replace("\0", ""):
            raise UsageError(
                f"the name {short(text)} cannot be stored: no text in UTF-8 without NUL"
            )
    return add_scale(group, name, np.array(texts, dtype=h5py.string_dtype()))


def add_dataset(
    group: h5py.Group, name: str, values: ArrayLike, scales: Sequence[h5py.Dataset]
) -> None:
    """Store an array whose axes have these scales, one each."""
    dataset = group.create_dataset(name, data=values)
    for axis, scale in zip(dataset.dims, scales, strict=True):
        axis.attach_scale(scale)


def add_direction(group: h5py.Group, inner: h5py.Group, name: str, values: NDArray[Any]) -> None:
    """Store one parameter of a direction; the scales of its axes are in ``group``.

    netCDF has no complex numbers: they are stored as pairs of real ones, along one more axis.
    """
    is_complex = np.iscomplexobj(values)
    real = np.stack([values.real, values.imag], axis=-1) if is_complex else values
    add_dataset(inner, name, real, length_scales(group, real.shape, np.int32))
    if is_complex:
        inner[name].attrs["complex"] = 1


def read_direction(dataset: h5py.Dataset) -> NDArray[Any]:
    """Return what `add_direction` has stored."""
    values: NDArray[Any] = dataset[...]
    if dataset.attrs.get("complex"):
        values = np.asarray(values[..., 0] + 1j * values[..., 1])  # of one number, too
    return values


def allocate(
    group: h5py.Group, name: str, scales: Sequence[h5py.Dataset], dtype: Any, fill: Any
) -> None:
    """Make a dataset whose space exists at once: contiguous and filled."""
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plist.set_fill_time(h5py.h5d.FILL_TIME_ALLOC)
    shape = tuple(len(scale) for scale in scales)
    dataset = group.create_dataset(name, shape, dtype, fillvalue=fill, dcpl=plist)
    for axis, scale in zip(dataset.dims, scales, strict=True):
        axis.attach_scale(scale)


def length_scales(
    group: h5py.Group, shape: Sequence[int], dtype: type[np.integer[Any]]
) -> list[h5py.Dataset]:
    """Return scales for the axes of a parameter, and make in ``group`` those that it lacks.

    netCDF wants a name for every axis and no name twice in a shape: the k-th axis of length n
    of a parameter is called ``n<n>_<k>``.
    """
    scales = []
    for axis, length in enumerate(shape):
        name = f"n{length}_{list(shape[:axis]).count(length)}"
        if name not in group:
            add_scale(group, name, np.arange(length, dtype=dtype))
        scales.append(group[name])
    return scales


def scale_name(dim: Any) -> str:
    """Return the name of the coordinate that is the scale of an axis."""
    return str(dim[0].name).lstrip("/")
