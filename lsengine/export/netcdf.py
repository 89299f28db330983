"""netCDF-4: quantities with named coordinates, for xarray, Panoply, CDO."""

from __future__ import annotations

from pathlib import Path

from lsengine.export.output import output
from lsengine.external.optional import library
from lsengine.surface import Surface


def write(surface: Surface, path: Path) -> list[Path]:
    """Write what `Surface.to_xarray` returns, and the trajectory's columns along ``epoch``.

    These are called ``trajectory_alpha`` and so on: below a coordinate ``alpha``, xarray takes a
    group's own ``alpha`` for the coordinate.

    Args:
        surface: Of any shape.
        path: The file.

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
