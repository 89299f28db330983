"""VTK's grids, read back by the reader that ParaView has."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lsengine import store
from lsengine.errors import UsageError
from lsengine.export import export
from tests.support.exported import ALPHA, BETA


def read_vts(path):
    """Read a structured grid with the reader that ParaView has: points and point arrays."""
    from vtkmodules.util.numpy_support import vtk_to_numpy
    from vtkmodules.vtkIOXML import vtkXMLStructuredGridReader

    reader = vtkXMLStructuredGridReader()
    assert reader.CanReadFile(str(path))
    reader.SetFileName(str(path))
    reader.Update()
    grid = reader.GetOutput()
    data = grid.GetPointData()
    names = [data.GetArrayName(i) for i in range(data.GetNumberOfArrays())]
    arrays = {n: vtk_to_numpy(data.GetArray(n)).copy() for n in names}
    return grid, vtk_to_numpy(grid.GetPoints().GetData()).copy(), arrays


def _dimensions(grid):
    found = [0, 0, 0]
    grid.GetDimensions(found)
    return found


def test_vts_has_points_at_the_cells_and_arrays_named_as_datasets(plane):
    """5 x 3 points at alpha, beta and the loss; NaN where nothing is; holes are hidden."""
    export(plane, "vts")
    grid, points, arrays = read_vts(plane.with_suffix(".vts"))
    surface = store.read(plane)
    assert _dimensions(grid) == [5, 3, 1]
    b, a = np.meshgrid(BETA, ALPHA, indexing="ij")
    np.testing.assert_array_equal(points[:, 0], a.ravel())
    np.testing.assert_array_equal(points[:, 1], b.ravel())
    loss = surface.quantities["train_loss"].ravel()
    good = np.isfinite(loss)
    np.testing.assert_array_equal(points[good, 2], loss[good])
    assert np.isfinite(points).all()
    assert arrays.keys() == {"train_loss", "test_accuracy", "status", "vtkGhostType"}
    for name, array in surface.quantities.items():
        np.testing.assert_array_equal(arrays[name], array.ravel())
    np.testing.assert_array_equal(arrays["status"], surface.status.ravel())
    assert [bool(grid.IsPointVisible(i)) for i in range(15)] == good.tolist()
    assert grid.GetPointData().GetScalars().GetName() == "train_loss"


def test_vts_takes_another_quantity_as_height(plane):
    """Unscaled, as the first does."""
    export(plane, "vts", quantity="test_accuracy")
    grid, points, _ = read_vts(plane.with_suffix(".vts"))
    accuracy = store.read(plane).quantities["test_accuracy"].ravel()
    known = np.isfinite(accuracy)
    np.testing.assert_array_equal(points[known, 2], accuracy[known])
    assert grid.GetPointData().GetScalars().GetName() == "test_accuracy"


def test_vts_of_curves_is_one_line_for_each_repeat(curve):
    """The repeat's number is y."""
    export(curve, "vts")
    grid, points, _ = read_vts(curve.with_suffix(".vts"))
    repeats = len(store.read(curve).axes.get("repeat", [0]))
    assert _dimensions(grid) == [4, repeats, 1]
    np.testing.assert_array_equal(points[:, 1], np.repeat(np.arange(repeats), 4))


def test_names_are_escaped(plane, tmp_path):
    """VTK writes them into its XML as they are."""
    surface = store.read(plane)
    odd = {name: surface.quantities["train_loss"] for name in ("a<b>&\"'", "\u00e9 $x^{")}
    path = export(replace(surface, quantities=odd), "vts", tmp_path / "a.vts")[0]
    assert {*odd, "status"} <= read_vts(path)[2].keys()


def test_a_file_name_that_is_no_text_is_refused(plane, tmp_path):
    """VTK takes texts alone; nothing is left behind."""
    with pytest.raises(UsageError, match="is no text in UTF-8; choose another name"):
        export(plane, "vts", tmp_path / "\udcff.vts")
    assert not [*tmp_path.glob("*.vts")]


def test_a_name_of_vtks_own_is_refused(plane):
    """A quantity in its place would hide points."""
    surface = store.read(plane)
    odd = {n: surface.quantities["train_loss"] for n in ("train_loss", "vtkGhostType")}
    with pytest.raises(UsageError, match="vtkGhostType is VTK's own name"):
        export(replace(surface, quantities=odd), "vts")
