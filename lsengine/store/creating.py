"""Making a surface file: contiguous, unfiltered, filled, with a scale on every axis."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from lsengine.store.file import in_place_of, refuses_parallel
from lsengine.store.format import (
    FAILURE_BYTES,
    FORMAT,
    FORMAT_VERSION,
    PROVENANCE,
    directions_group,
)
from lsengine.store.layout import CurveLayout, Layout, TrajectoryLayout


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
    with in_place_of(path) as part:
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
    with in_place_of(path) as part:
        shutil.copyfile(path, part)
        with h5py.File(part, "r+", locking=False) as file:
            file.attrs.update(attributes)
            if trajectory is not None:
                lay_out_trajectory(file.create_group("trajectory"), trajectory)
            file.flush()


_OVERHEAD_BYTES = 2**17  # attributes, scales and object headers


def reserve(part: Path, layout: Layout) -> None:
    """Make an empty file where there is room for a whole one: HDF5 crashes where there is not.

    Asking the file system for the space, and not how much is free, minds quotas, too.

    Raises:
        OSError: If there is no room.
    """
    per_cell = 8 * len(layout.quantities) + 8 + 8 + 4 + 4 + FAILURE_BYTES + 1
    arrays = [a for d in layout.directions.values() for a in d.values()]
    checkpoints = len(layout.trajectory.columns["epoch"]) if layout.trajectory else 0
    needed = per_cell * layout.grid.size + sum(a.nbytes + 1024 for a in arrays) + len(layout.state)
    with part.open("xb") as file:
        os.posix_fallocate(file.fileno(), 0, needed + _OVERHEAD_BYTES + 1024 * checkpoints)


def lay_out(file: h5py.File, layout: Layout) -> None:
    """Make everything that a surface file holds before the first cell."""
    file.attrs["format"] = FORMAT
    file.attrs["format_version"] = FORMAT_VERSION
    for name, value in layout.attributes.items():
        file.attrs[name] = value
    dims = tuple(layout.grid.axes)
    for axis, values in layout.grid.axes.items():
        file.create_dataset(axis, data=values).make_scale(axis)
    for name in layout.quantities:
        _allocated(file, name, dims, np.float64, np.nan)
    for name, (dtype, fill) in PROVENANCE.items():
        _allocated(file, name, dims, dtype, fill)
    _allocated(file, "status", dims, np.uint8, 0)
    for name, size in (("precision_cell", 3), ("precision_column", 4)):
        file.create_dataset(name, data=np.arange(size)).make_scale(name)
    dims = ("precision_cell", "precision_column")
    _allocated(file, "precision_error", dims, np.float64, np.nan)
    if layout.directions:
        group = file.create_group("directions")
        _lay_out_directions(group, layout.directions)
        if layout.state:
            group["state"] = np.bytes_(layout.state.encode())
    if layout.trajectory is not None:
        lay_out_trajectory(file.create_group("trajectory"), layout.trajectory)
    if layout.curve is not None:
        _lay_out_curve(file.create_group("curve"), layout.curve)


def lay_out_trajectory(group: h5py.Group, layout: TrajectoryLayout) -> None:
    """Make the datasets of a trajectory in an empty group."""
    group.attrs.update(layout.attributes)
    epoch = group.create_dataset("epoch", data=layout.columns["epoch"])
    epoch.make_scale("epoch")
    for name, values in layout.columns.items():
        if name != "epoch":
            group.create_dataset(name, data=values).dims[0].attach_scale(epoch)
    for name in layout.quantities:
        _allocated(group, name, ("epoch",), np.float64, np.nan)
    for name, (dtype, fill) in PROVENANCE.items():
        _allocated(group, name, ("epoch",), dtype, fill)
    _allocated(group, "status", ("epoch",), np.uint8, 0)


def _lay_out_curve(group: h5py.Group, layout: CurveLayout) -> None:
    group.attrs.update(layout.attributes)
    scales = {"t": layout.t, "control": np.arange(len(layout.controls))}
    columns = {
        "t": {"alpha": layout.points[:, 0], "beta": layout.points[:, 1]},
        "control": {
            "control_alpha": layout.controls[:, 0],
            "control_beta": layout.controls[:, 1],
            "control_distance": layout.distance,
        },
    }
    for dim, values in scales.items():
        scale = group.create_dataset(dim, data=values)
        scale.make_scale(dim)
        for name, column in columns[dim].items():
            group.create_dataset(name, data=column).dims[0].attach_scale(scale)


def _allocated(
    group: h5py.Group, name: str, dims: Sequence[str], dtype: Any, fill: Any
) -> h5py.Dataset:
    """Make a dataset whose space exists at once: contiguous, filled, with named axes."""
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plist.set_fill_time(h5py.h5d.FILL_TIME_ALLOC)
    shape = tuple(len(group[dim]) for dim in dims)
    dataset = group.create_dataset(name, shape, dtype, fillvalue=fill, dcpl=plist)
    for axis, dim in zip(dataset.dims, dims, strict=True):
        axis.attach_scale(group[dim])
    return dataset


def _lay_out_directions(
    group: h5py.Group, directions: Mapping[str, Mapping[str, NDArray[np.float32]]]
) -> None:
    """Store parameters under their state-dict names.

    netCDF wants a name for every axis and no name twice in a shape: the k-th axis of length n
    of a parameter is called ``n<n>_<k>``.
    """
    for axis, parameters in directions.items():
        inner = group.create_group(directions_group(axis))
        for name, values in parameters.items():
            dataset = inner.create_dataset(name, data=values)
            seen: dict[int, int] = {}
            for dim, length in zip(dataset.dims, values.shape, strict=True):
                seen[length] = seen.get(length, -1) + 1
                dim.attach_scale(_length_scale(group, f"n{length}_{seen[length]}", length))


def _length_scale(group: h5py.Group, name: str, length: int) -> h5py.Dataset:
    if name not in group:
        scale = group.create_dataset(name, data=np.arange(length, dtype=np.int32))
        scale.make_scale(name)
    return group[name]
