"""Cells as rows and arrays: CSV for spreadsheets and R, NPZ for NumPy, netCDF-4 for xarray, CDO.

All take surfaces of any shape.
"""

from __future__ import annotations

import csv
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsengine.errors import UsageError
from lsengine.export.output import output
from lsengine.external.optional import library
from lsengine.surface import Surface

_DEFLATED = zipfile.ZIP_DEFLATED


def write_csv(surface: Surface, path: Path) -> list[Path]:
    """Write ``repeat, alpha, beta``, as far as there are, all quantities, and the status.

    Rows go along alpha first.  Numbers have all their digits; a cell without result has empty
    fields, and NaN or infinity as a result is ``nan`` or ``inf``.
    """
    axes = [name for name in ("repeat", "alpha", "beta") if name in surface.axes]
    with output(path, surface) as part, part.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow([*axes, *surface.quantities, "status"])
        for cell in np.ndindex(surface.status.shape):
            at = dict(zip(surface.axes, cell, strict=True))
            coordinates = [repr(float(surface.axes[name][at[name]])) for name in axes]
            if surface.done[cell]:
                values = [repr(float(array[cell])) for array in surface.quantities.values()]
            else:
                values = [""] * len(surface.quantities)
            rows.writerow([*coordinates, *values, int(surface.status[cell])])
    return [path]


def write_npz(surface: Surface, path: Path) -> list[Path]:
    """Write axes, quantities and ``status`` under their names, without any pickle.

    The columns of a trajectory are called ``trajectory_epoch`` and so on.  A quantity that is
    called ``name`` takes the place of the surface's name.

    Raises:
        UsageError: If a quantity is called as something else of the surface.
    """
    columns = _named(surface)
    # HDF5's own marks on the type of a text are not for this format.
    trajectory = {name: column.astype(column.dtype.str) for name, column in columns.items()}
    arrays = {"name": np.array(surface.name), "status": surface.status}
    arrays |= {**surface.axes, **surface.quantities, **trajectory}
    with output(path, surface) as part, zipfile.ZipFile(part, "w", _DEFLATED) as archive:
        for name, array in arrays.items():  # as `np.savez_compressed`, which takes fewer names
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
    return [path]


def _named(surface: Surface) -> dict[str, NDArray[Any]]:
    """Return the columns of a trajectory by the names that they get beside quantities."""
    columns = surface.trajectory.columns if surface.trajectory is not None else {}
    named = {f"trajectory_{name}": column for name, column in columns.items()}
    taken = {*named, "epoch"} if named else set()
    if twice := taken & surface.quantities.keys():
        raise UsageError(
            f"{surface.source}: its quantity {min(twice)} is called as a column of its trajectory "
            "is in this format; export it to csv, or give it another name"
        )
    return named


def write_netcdf(surface: Surface, path: Path) -> list[Path]:
    """Write what `Surface.to_xarray` returns, and the trajectory's columns along ``epoch``.

    These are called ``trajectory_alpha`` and so on: below a coordinate ``alpha``, xarray takes a
    group's own ``alpha`` for the coordinate.

    Raises:
        UsageError: If a quantity is called as a column of the trajectory.
        EnvironmentUnfit: If xarray or h5netcdf is missing.
    """
    library("h5netcdf", "netcdf", "export --to netcdf")
    _named(surface)
    dataset = surface.to_xarray()
    if surface.trajectory is not None:
        columns = surface.trajectory.to_xarray()
        names = {name: f"trajectory_{name}" for name in columns.data_vars}
        attributes = {f"trajectory_{name}": value for name, value in columns.attrs.items()}
        dataset = dataset.merge(columns.rename(names)).assign_attrs(attributes)
    content = io.BytesIO()  # HDF5 crashes where a disk is full
    dataset.to_netcdf(content, engine="h5netcdf")
    with output(path, surface) as part:
        part.write_bytes(content.getbuffer())
    return [path]
