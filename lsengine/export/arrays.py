"""Cells as rows and arrays: CSV for spreadsheets and R, NPZ for NumPy, netCDF-4 for xarray, CDO.

All take surfaces of any shape.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from lsengine.export.output import output
from lsengine.external.optional import library
from lsengine.surface import Surface


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

    The columns of a trajectory are called ``trajectory_epoch`` and so on.
    """
    columns = surface.trajectory.columns if surface.trajectory is not None else {}
    # HDF5's own marks on the type of a text are not for this format.
    trajectory = {f"trajectory_{n}": c.astype(c.dtype.str) for n, c in columns.items()}
    arrays = {"name": np.array(surface.name), "status": surface.status}
    arrays |= {**surface.axes, **surface.quantities, **trajectory}
    with output(path, surface) as part:
        np.savez_compressed(part, allow_pickle=False, **arrays)
    return [path]


def write_netcdf(surface: Surface, path: Path) -> list[Path]:
    """Write what `Surface.to_xarray` returns, and the trajectory's columns along ``epoch``.

    These are called ``trajectory_alpha`` and so on: below a coordinate ``alpha``, xarray takes a
    group's own ``alpha`` for the coordinate.

    Raises:
        EnvironmentUnfit: If xarray or h5netcdf is missing.
    """
    library("h5netcdf", "netcdf", "export --to netcdf")
    dataset = surface.to_xarray()
    if surface.trajectory is not None:
        columns = surface.trajectory.to_xarray()
        names = {name: f"trajectory_{name}" for name in columns.data_vars}
        attributes = {f"trajectory_{name}": value for name, value in columns.attrs.items()}
        dataset = dataset.merge(columns.rename(names)).assign_attrs(attributes)
    with output(path, surface) as part:
        dataset.to_netcdf(part, engine="h5netcdf")
    return [path]
