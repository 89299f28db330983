"""VTK's structured grid (``.vts``), for ParaView, VisIt and PyVista.

Shape suffixes: B betas, A alphas, R repeats, P points.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from lsengine.errors import UsageError
from lsengine.export.output import height, no_height, output
from lsengine.external.optional import library
from lsengine.surface import Surface
from lsengine.surface.cells import tally

_HIDDEN = 2  # vtkDataSetAttributes.HIDDENPOINT
_GHOSTS = "vtkGhostType"
_QUOTES = {'"': "&quot;"}


def write(surface: Surface, path: Path, *, quantity: str | None = None) -> list[Path]:
    """Write points at alpha, beta and a quantity, by default the training loss.

    All quantities are point arrays, with the names and values of the surface file, NaN where
    there is no result.  Points without a finite height lie at the lowest (of +inf: highest) one
    and are hidden by ``vtkGhostType``, so that they leave holes.  Repeats lie side by side in y.

    Raises:
        UsageError: If there is no such quantity, or no finite value of it, or if one has a name
            that VTK takes for its own.
        EnvironmentUnfit: If VTK is missing.
    """
    name = height(surface, quantity)
    if _GHOSTS in surface.quantities:
        raise UsageError(f"{surface.source}: {_GHOSTS} is VTK's own name; export it to csv")
    xml = library("vtkmodules.vtkIOXML", "vtk", "export --to vts")
    model = library("vtkmodules.vtkCommonDataModel", "vtk", "export --to vts")
    core = library("vtkmodules.vtkCommonCore", "vtk", "export --to vts")
    to_vtk = library("vtkmodules.util.numpy_support", "vtk", "export --to vts").numpy_to_vtk

    rows = next((surface.axes[a] for a in ("beta", "repeat") if a in surface.axes), np.zeros(1))
    y, x = np.meshgrid(rows, surface.axes["alpha"], indexing="ij")
    z_P, hidden_P = _heights(surface, name)
    grid = model.vtkStructuredGrid()
    grid.SetDimensions(len(surface.axes["alpha"]), len(rows), 1)
    points = core.vtkPoints()
    points.SetDataTypeToDouble()
    points.SetData(to_vtk(np.stack([x.ravel(), y.ravel(), z_P], axis=1), deep=True))
    grid.SetPoints(points)
    arrays = {**surface.quantities, "status": surface.status}
    if hidden_P.any():
        arrays[_GHOSTS] = np.where(hidden_P, _HIDDEN, 0).astype(np.uint8)
    for array_name, values in arrays.items():
        array = to_vtk(np.ascontiguousarray(values).ravel(), deep=True)
        array.SetName(escape(array_name, _QUOTES))  # VTK writes names as they are
        grid.GetPointData().AddArray(array)
    grid.GetPointData().SetActiveScalars(escape(name, _QUOTES))
    writer = xml.vtkXMLStructuredGridWriter()
    writer.SetInputData(grid)
    writer.SetDataModeToAppended()
    writer.EncodeAppendedDataOff()
    with output(path, surface) as part, _silent(core.vtkObject):
        try:
            writer.SetFileName(str(part))
        except UnicodeEncodeError:
            raise UsageError(f"--output {path}: is no text in UTF-8; choose another name") from None
        if not writer.Write():
            raise OSError("VTK gives no reason; is the disk full?")
    return [path]


@contextmanager
def _silent(vtk_object: Any) -> Iterator[None]:
    """Keep VTK from printing ten coloured lines for what is said in one."""
    before = vtk_object.GetGlobalWarningDisplay()
    vtk_object.GlobalWarningDisplayOff()
    try:
        yield
    finally:
        vtk_object.SetGlobalWarningDisplay(before)


def _heights(surface: Surface, name: str) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return finite heights of all points and which of them are to be hidden; (P,)."""
    values_P = np.where(surface.done, surface.quantities[name], np.nan).ravel()
    finite = values_P[np.isfinite(values_P)]
    if not finite.size:
        raise no_height(surface, name, tally(surface.status, [surface.quantities[name]]))
    low, high = float(finite.min()), float(finite.max())
    return np.nan_to_num(values_P, nan=low, posinf=high, neginf=low), ~np.isfinite(values_P)
