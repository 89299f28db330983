"""Meshes, read back by VTK's readers."""

from __future__ import annotations

import numpy as np
import pytest

from lsengine import store
from lsengine.errors import UsageError
from lsengine.export import export


@pytest.mark.parametrize("form", ["glb", "ply"])
def test_a_mesh_has_the_shape_and_colours_of_the_surface(bowl, form):
    """VTK's own readers find alpha, beta, heights by the logarithm, and viridis by height."""
    from matplotlib import colormaps
    from vtkmodules.util.numpy_support import vtk_to_numpy

    (path,) = export(bowl, form, scale="log")
    found = _read_mesh(path)
    points = vtk_to_numpy(found.GetPoints().GetData()).astype(float)
    if form == "glb":  # y is up in glTF
        points = points[:, [0, 2, 1]] * [1, -1, 1]
    b, a = np.meshgrid(np.linspace(-0.5, 0.5, 7), np.linspace(-1, 1, 9), indexing="ij")
    place = {(round(x, 4), round(y, 4)): i for i, (x, y) in enumerate(points[:, :2])}
    assert len(place) == len(points) == 62  # without the failed cell
    order = [
        place[round(x, 4), round(y, 4)]
        for x, y in zip(a.flat, b.flat, strict=True)
        if (round(x, 4), round(y, 4)) in place
    ]
    loss = store.read(bowl).quantities["train_loss"].ravel()
    height = np.log10(loss[np.isfinite(loss)])
    assert np.corrcoef(points[order, 2], height)[0, 1] > 0.999
    top = 0.6 * 2.0  # of the scale, whose ends are round
    assert points[:, 2].min() >= 0.0
    assert 0.9 * top < points[:, 2].max() <= top
    assert found.GetNumberOfPolys() == 2 * 8 * 6 - 2  # a corner lost at an edge costs two halves
    colors = vtk_to_numpy(_colors(found)).astype(float)[order, :3]
    colors = colors / 255 if colors.max() > 1 else colors
    expected = colormaps["viridis"](points[order, 2] / top)[:, :3]
    if form == "glb":  # linear light there
        colors = np.where(colors < 0.0031, 12.92 * colors, 1.055 * colors ** (1 / 2.4) - 0.055)
    np.testing.assert_allclose(colors, expected, atol=0.05)


def _read_mesh(path):
    if path.suffix == ".ply":
        from vtkmodules.vtkIOPLY import vtkPLYReader

        reader = vtkPLYReader()
        reader.SetFileName(str(path))
        reader.Update()
        return reader.GetOutput()
    from vtkmodules.vtkFiltersGeometry import vtkCompositeDataGeometryFilter
    from vtkmodules.vtkIOGeometry import vtkGLTFReader

    reader, flat = vtkGLTFReader(), vtkCompositeDataGeometryFilter()
    reader.SetFileName(str(path))
    flat.SetInputConnection(reader.GetOutputPort())
    flat.Update()
    return flat.GetOutput()


def _colors(mesh):
    data = mesh.GetPointData()
    names = [data.GetArrayName(i) for i in range(data.GetNumberOfArrays())]
    return data.GetArray(next(n for n in names if n in ("COLOR_0", "RGBA", "RGB")))


def test_faces_look_up_and_bend_along_the_flatter_diagonal(bowl):
    """Counter-clockwise from above, for viewers that hide the backs of faces."""
    from lsengine.export import mesh

    made = mesh.mesh(store.read(bowl), scale="log")
    p, q, r = (made.vertices[made.faces[:, i]] for i in range(3))
    assert (np.cross(q - p, r - p)[:, 2] > 0).all()


def test_a_mesh_has_a_material_that_is_no_metal(bowl):
    """The default of glTF is metal, which is black without surroundings."""
    import json
    import struct

    (path,) = export(bowl, "glb")
    content = path.read_bytes()
    assert content[:4] == b"glTF"
    (length,) = struct.unpack("<I", content[12:16])
    tree = json.loads(content[20 : 20 + length])
    (primitive,) = tree["meshes"][0]["primitives"]
    material = tree["materials"][primitive["material"]]
    assert material["pbrMetallicRoughness"]["metallicFactor"] == 0
    assert "NORMAL" in primitive["attributes"]


@pytest.mark.parametrize("form", ["glb", "ply"])
def test_a_mesh_needs_a_plane(curve, form):
    """A curve has no faces."""
    with pytest.raises(UsageError, match="one direction"):
        export(curve, form)
