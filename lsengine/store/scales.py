"""Datasets whose axes have names: HDF5's dimension scales, which make a file netCDF, too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray


def add_scale(group: h5py.Group, name: str, values: NDArray[Any]) -> h5py.Dataset:
    """Store a scale: coordinates that name an axis of other datasets."""
    scale = group.create_dataset(name, data=values)
    scale.make_scale(name)
    return scale


def add_names(group: h5py.Group, name: str, texts: Sequence[str]) -> h5py.Dataset:
    """Store a scale of texts."""
    return add_scale(group, name, np.array(texts, dtype=h5py.string_dtype()))


def add_dataset(
    group: h5py.Group, name: str, values: ArrayLike, scales: Sequence[h5py.Dataset]
) -> None:
    """Store an array whose axes have these scales, one each."""
    dataset = group.create_dataset(name, data=values)
    for axis, scale in zip(dataset.dims, scales, strict=True):
        axis.attach_scale(scale)


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
        exists = name in group
        scales.append(
            group[name] if exists else add_scale(group, name, np.arange(length, dtype=dtype))
        )
    return scales


def scale_name(dim: Any) -> str:
    """Return the name of the coordinate that is the scale of an axis."""
    return str(dim[0].name).lstrip("/")
