"""Files of github.com/tomgoldstein/loss-landscape, read and written.

Its surface files have ``xcoordinates`` and, of a plane, ``ycoordinates``, and float64 datasets
that are -1 where nothing was computed (``min_eig`` +1), with accuracies in percent.  Of a plane
they are allocated (nx, ny), but filled in the order of ``meshgrid``: whatever the shape says,
the buffer is (ny, nx), row = y.  Its direction files have groups ``xdirection`` and
``ydirection`` with datasets ``0``, ``1``, ... in the order of the network's parameters, or of
its state dict.

Shape suffixes: B betas, A alphas; a curve is (A,).
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from lsengine.errors import SurfaceError
from lsengine.store.validation import Content
from lsengine.surface import DONE, MISSING, Surface

FORMAT = "loss-landscape"
_AXES = {"beta": "ycoordinates", "alpha": "xcoordinates"}
_DIRECTIONS = {"alpha": "xdirection", "beta": "ydirection"}
_NAMES = {
    "train_loss": "train_loss",
    "test_loss": "test_loss",
    "train_acc": "train_accuracy",
    "test_acc": "test_accuracy",
    "max_eig": "eigenvalue_max",
    "min_eig": "eigenvalue_min",
}
QUANTITIES = tuple(_NAMES.values())
"""What its files can hold, by our names."""
_PERCENT = {"train_accuracy", "test_accuracy"}
_FAMILIES = ({"train_loss", "train_accuracy"}, {"test_loss", "test_accuracy"})
_MISSING = {"eigenvalue_min": 1.0}  # every other one is -1


def is_one(file: h5py.File) -> bool:
    """Whether an open file is of loss-landscape: a surface, directions or a projection."""
    theirs = {*_AXES.values(), *_DIRECTIONS.values(), "proj_xcoord"}
    return "format" not in file.attrs and not theirs.isdisjoint(file)


def read(content: Content, path: Path) -> Surface:
    """Read a surface.

    A cell is missing if every dataset says so; a loss of -1 beside an accuracy is a loss.
    Accuracies that nowhere exceed 1 are taken for fractions, as some of its descendants
    write them.

    Raises:
        SurfaceError: If it has no values, or not as many as coordinates.
    """
    if "xcoordinates" not in content:
        what = "directions" if "xdirection" in content else "a projection"
        raise SurfaceError(f"{path}: holds {what} of {FORMAT}, and no surface")
    axes = {a: _coordinates(content, n) for a, n in _AXES.items() if n in content}
    shape = tuple(len(values) for values in axes.values())
    quantities = {}
    for name, dataset in content.group.items():
        is_float = isinstance(dataset, h5py.Dataset) and dataset.ndim and dataset.dtype.kind == "f"
        if name in _AXES.values() or not is_float:
            continue
        content.refuse_name(name)
        if dataset.shape is None or dataset.size != math.prod(shape):
            held = f"{dataset.size:,} values for {' x '.join(map(str, shape))} coordinates"
            raise content.damage(f"{name} has {held}")
        buffer = np.asarray(dataset[...], np.float64).ravel()
        quantities[_NAMES.get(name, name)] = buffer.reshape(shape)
    if not quantities:
        raise SurfaceError(f"{path}: a surface file of {FORMAT} without any values yet")
    done = _mask_absent(quantities)
    for name in _PERCENT & quantities.keys():
        values = quantities[name]
        if (np.isfinite(values) & (values > 1.0)).any():
            quantities[name] = values / 100.0
    return Surface(
        name=path.stem,
        source=str(path),
        axes=axes,
        quantities=quantities,
        status=np.where(done, DONE, MISSING).astype(np.uint8),
        attributes={"format": FORMAT, "dir_file": _text(content)},
    )


def _coordinates(content: Content, name: str) -> NDArray[np.float64]:
    values = np.asarray(content.places(name, (None,), ("f2", "f4", "f8", "i4", "i8")), np.float64)
    if not values.size:
        raise content.damage(f"{name} has no coordinates")
    return values


def _mask_absent(quantities: dict[str, NDArray[np.float64]]) -> NDArray[np.bool_]:
    """Put NaN where nothing was computed, and return where anything was."""
    done = np.zeros(next(iter(quantities.values())).shape, np.bool_)
    others = quantities.keys() - set().union(*_FAMILIES)
    for family in (*_FAMILIES, others):  # datasets that one pass over the data fills
        names = sorted(family & quantities.keys())
        absent = np.logical_and.reduce([quantities[n] == _MISSING.get(n, -1.0) for n in names])
        for name in names:
            quantities[name] = np.where(absent, np.nan, quantities[name])
        done |= ~absent
    return done


def read_directions(content: Content) -> dict[str, dict[str, NDArray[np.float32]]]:
    """Return directions by axis and number; empty if the file has none.

    Raises:
        SurfaceError: If one is not made of numbers.
    """
    found: dict[str, dict[str, NDArray[np.float32]]] = {}
    for axis, group in _DIRECTIONS.items():
        if group in content:
            inner = content.inner(group)
            found[axis] = {name: _numbers(inner, name).astype(np.float32) for name in inner}
    return found


def _numbers(content: Content, name: str) -> NDArray[Any]:
    dataset = content.dataset(name)
    if dataset.dtype.kind not in "iuf":
        raise content.damage(f"{content.path(name)} is {dataset.dtype}; expected numbers")
    return np.asarray(dataset[...])


def surface_file(surface: Surface, dir_file: str) -> bytes:
    """Return a plane or a curve without repeats as loss-landscape's file, in its wrong shape, too.

    The file says that its directions are in ``dir_file``.  It has no quantities but `QUANTITIES`.
    """
    names = {ours: theirs for theirs, ours in _NAMES.items() if ours in surface.quantities}
    with _in_memory() as (file, content):
        file["dir_file"] = dir_file
        for axis, name in reversed(_AXES.items()):
            if axis in surface.axes:
                file[name] = surface.axes[axis]
        for ours, theirs in names.items():
            factor = 100.0 if ours in _PERCENT else 1.0
            with np.errstate(over="ignore"):
                computed = surface.quantities[ours] * factor
            values = np.where(surface.done, computed, _MISSING.get(ours, -1.0))
            file[theirs] = values.reshape(values.shape[::-1])  # its shape, not its order
    return content.getvalue()


def directions_file(
    directions: Mapping[str, Mapping[str, NDArray[np.float32]]],
    shapes: Mapping[str, tuple[int, ...]],
    variance_ratio: NDArray[np.float64] | None = None,
) -> bytes:
    """Return directions, by axis and name, as loss-landscape's file.

    Parameters are numbered; those that do not move are zero.

    ``shapes`` are of all parameters, or of the whole state dict, in its order; ``variance_ratio``
    is what each of principal directions explains.
    """
    with _in_memory() as (file, content):
        for axis, moved in directions.items():
            group = file.create_group(_DIRECTIONS[axis])
            for number, (name, shape) in enumerate(shapes.items()):
                group[str(number)] = moved[name] if name in moved else np.zeros(shape, np.float32)
        if variance_ratio is not None:
            file["explained_variance_ratio_"] = variance_ratio
    return content.getvalue()


@contextmanager
def _in_memory() -> Iterator[tuple[h5py.File, io.BytesIO]]:
    """Give a file that is on no disk: HDF5 crashes where one is full."""
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        yield file, content


def _text(content: Content) -> str:
    dataset = content.group.get("dir_file")
    text = dataset[()] if isinstance(dataset, h5py.Dataset) else b""
    return text.decode(errors="replace") if isinstance(text, bytes) else ""
