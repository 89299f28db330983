"""Surfaces in other programs' formats, read back by other programs' readers."""

from __future__ import annotations

import csv
import subprocess
import sys

import h5py
import numpy as np
import pytest
import xarray

from lsengine import store
from lsengine.cli import main
from lsengine.errors import EnvironmentUnfit, UsageError
from lsengine.export import FORMATS, export
from lsengine.store.layout import CellResults, Layout, TrajectoryLayout
from lsengine.surface.grid import make_grid

ALPHA, BETA = np.linspace(-1.0, 2.0, 5), np.linspace(0.5, 1.5, 3)


def write_surface(path, grid, done, failed=(), trajectory=None, **functions):
    """Write a surface whose cells have a function's values of (row, column)."""
    attributes = {"name": path.stem, "writing": "gather", "batch_size": 7}
    store.create(
        path,
        Layout(grid=grid, quantities=list(functions), attributes=attributes, trajectory=trajectory),
    )
    cells = sorted({*done, *failed})
    columns = grid.shape[-1]
    values = {
        name: [float(function(c // columns, c % columns)) for c in cells]
        for name, function in functions.items()
    }
    nothing = [0.0] * len(cells)
    writer = store.Writer(path)
    writer.write(
        CellResults(
            cells=cells,
            values=values,
            wall_s=nothing,
            finished=nothing,
            failures={c: "no" for c in failed},
        )
    )
    writer.close()
    return path


def value(row, column):
    """Return thirds, which have no short decimals, and a NaN and an infinity among them."""
    special = {(0, 1): np.nan, (2, 4): np.inf}
    return special.get((row, column), 1 / 3 + row**2 + column / 7)


@pytest.fixture
def plane(tmp_path):
    """A plane of 5 x 3 cells: one missing, one failed, one NaN, one infinite, a trajectory."""
    track = TrajectoryLayout(
        {"epoch": np.array([1, 5]), "alpha": np.array([0.5, 0.0]), "beta": np.array([0.25, 0.0])},
        ["train_loss"],
        {"expected_cosine": 0.125},
    )
    return write_surface(
        tmp_path / "plane.h5",
        make_grid((-1.0, 2.0, 5), (0.5, 1.5, 3)),
        [c for c in range(15) if c not in (6, 13)],
        failed=[13],
        trajectory=track,
        train_loss=value,
        test_accuracy=lambda row, column: 0.9 - row / 10 - column / 100,
    )


@pytest.fixture(params=["curve", "repeats"])
def curve(request, tmp_path):
    """Four alphas, alone or with three repeats; the last cell is missing."""
    grid = make_grid((-1.0, 1.0, 4), repeats=1 if request.param == "curve" else 3)
    return write_surface(tmp_path / "curve.h5", grid, range(grid.size - 1), train_loss=value)


# Tables and arrays.


def test_csv_has_a_row_for_every_cell_and_all_digits(plane):
    """Alpha first, then beta, the quantities, the status; no result is an empty field."""
    export(plane, "csv")
    with plane.with_suffix(".csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["alpha", "beta", "test_accuracy", "train_loss", "status"]
    surface = store.read(plane)
    assert len(rows) == 15
    for cell, (alpha, beta, accuracy, loss, status) in enumerate(rows):
        row, column = divmod(cell, 5)
        assert (float(alpha), float(beta)) == (ALPHA[column], BETA[row])
        assert int(status) == surface.status[row, column]
        if cell in (6, 13):
            assert accuracy == loss == ""
        else:
            np.testing.assert_equal(float(loss), value(row, column))
            assert float(accuracy) == surface.quantities["test_accuracy"][row, column]
    assert (rows[1][3], rows[14][3]) == ("nan", "inf")
    assert (rows[6][4], rows[13][4]) == ("0", "2")


def test_csv_of_curves_has_no_beta(curve):
    """Repeats have a column of their own before alpha."""
    export(curve, "csv")
    header, *rows = csv.reader(curve.with_suffix(".csv").read_text().splitlines())
    surface = store.read(curve)
    repeats = "repeat" in surface.axes
    assert header == [*(["repeat"] if repeats else []), "alpha", "train_loss", "status"]
    assert len(rows) == surface.status.size
    if repeats:
        assert [float(r[0]) for r in rows[:5]] == [0, 0, 0, 0, 1]


def test_npz_holds_the_arrays_under_their_names(plane):
    """No pickle is needed; the trajectory's columns have a prefix."""
    export(plane, "npz")
    surface = store.read(plane)
    with np.load(plane.with_suffix(".npz"), allow_pickle=False) as found:
        for name, array in {**surface.axes, **surface.quantities}.items():
            np.testing.assert_array_equal(found[name], array)
        np.testing.assert_array_equal(found["status"], surface.status)
        np.testing.assert_array_equal(found["trajectory_epoch"], [1, 5])
        assert str(found["name"]) == "plane"


def test_netcdf_opens_in_xarray_as_a_dataset_and_as_a_tree(plane):
    """Named coordinates, all quantities, the attributes, the trajectory along `epoch`."""
    export(plane, "netcdf")
    path = plane.with_suffix(".nc")
    surface = store.read(plane)
    with xarray.open_dataset(path, engine="h5netcdf") as found:
        assert found["train_loss"].dims == ("beta", "alpha")
        np.testing.assert_array_equal(found["train_loss"], surface.quantities["train_loss"])
        np.testing.assert_array_equal(found["beta"], BETA)
        assert found["status"].dtype == np.uint8
        assert found.attrs["batch_size"] == 7
        np.testing.assert_array_equal(found["trajectory_alpha"].sel(epoch=5), 0.0)
        assert found.attrs["trajectory_expected_cosine"] == 0.125
    with xarray.open_datatree(path, engine="h5netcdf") as tree:
        np.testing.assert_array_equal(tree["trajectory_beta"], [0.25, 0.0])


def test_netcdf_of_curves(curve):
    """With and without repeats."""
    export(curve, "netcdf")
    with xarray.open_dataset(curve.with_suffix(".nc"), engine="h5netcdf") as found:
        assert found["train_loss"].dims == tuple(store.read(curve).axes)


# ParaView.


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


# Meshes.


@pytest.fixture
def bowl(tmp_path):
    """A finished bowl of 9 x 7 cells over four decades, with one failed cell at an edge."""
    return write_surface(
        tmp_path / "bowl.h5",
        make_grid((-1.0, 1.0, 9), (-0.5, 0.5, 7)),
        range(63),
        failed=[4],
        train_loss=lambda row, column: 10.0 ** (((row - 3) ** 2 + (column - 4) ** 2) / 6),
    )


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


# The ancestor's files.


def test_loss_landscape_files_have_its_layout(plane):
    """Values (nx, ny) by shape, (ny, nx) by order; percent; -1 where nothing is."""
    export(plane, "loss-landscape", plane.with_name("old.h5"))
    surface = store.read(plane)
    with h5py.File(plane.with_name("old.h5")) as file:
        assert set(file) == {"dir_file", "xcoordinates", "ycoordinates", "train_loss", "test_acc"}
        np.testing.assert_array_equal(file["xcoordinates"], ALPHA)
        np.testing.assert_array_equal(file["ycoordinates"], BETA)
        assert file["train_loss"].shape == (5, 3)
        assert file["train_loss"].dtype == np.float64
        expected = np.where(surface.done, surface.quantities["train_loss"], -1.0)
        np.testing.assert_array_equal(file["train_loss"][...].ravel(), expected.ravel())
        percent = np.where(surface.done, 100 * surface.quantities["test_accuracy"], -1.0)
        np.testing.assert_array_equal(file["test_acc"][...].ravel(), percent.ravel())


@pytest.mark.parametrize("shape", [(5, 3), (4, 4), (6, None)])
def test_loss_landscape_files_come_back(tmp_path, shape):
    """What was exported reads as the same surface, but that a failed cell is a missing one."""
    alphas, betas = shape
    grid = make_grid((-1.0, 1.0, alphas), (0.0, 2.0, betas) if betas else None)
    path = write_surface(
        tmp_path / "s.h5",
        grid,
        range(grid.size - 1),
        failed=[2],
        train_loss=value,
        train_accuracy=lambda row, column: 0.75 - row / 16 - column / 64,
        eigenvalue_max=lambda row, column: 3.0 + row,
        eigenvalue_min=lambda row, column: -3.0 - column,
    )
    export(path, "loss-landscape", tmp_path / "old.h5")
    before, after = store.read(path), store.read(tmp_path / "old.h5")
    assert list(after.axes) == list(before.axes)
    assert after.quantities.keys() == before.quantities.keys()
    np.testing.assert_array_equal(after.status == 1, before.status == 1)
    for name, array in before.quantities.items():
        np.testing.assert_array_equal(after.quantities[name], array, err_msg=name)
    export(tmp_path / "old.h5", "loss-landscape", tmp_path / "again.h5")
    for name, array in store.read(tmp_path / "again.h5").quantities.items():
        np.testing.assert_array_equal(array, after.quantities[name])


@pytest.mark.parametrize("policy", ["frozen", "interpolated"])
def test_directions_go_to_the_ancestor_and_back(make_job, tmp_path, policy):
    """Numbered in the network's order with zeros for what stays; a job that reads them agrees."""
    from lsengine.engine import Options, evaluate

    drawn = {"kind": "random", "normalize": "filter", "ignore": ["bias", "norm"]}
    directions = {"alpha": {**drawn, "seed": 1}, "beta": {**drawn, "seed": 2}}
    if policy == "interpolated":
        directions["alpha"] = {**drawn, "seed": 1, "ignore": []}
    common = {"grid": {"alpha": [-1, 1, 3], "beta": [-1, 1, 2]}, "batch_norm": policy}
    job = make_job("first", directions=directions, **common)
    assert evaluate([job], Options(progress="none"), world=None) == 0
    surface = job.with_suffix(".h5")
    written = export(surface, "loss-landscape", tmp_path / "old.h5")
    assert [p.name for p in written] == ["old.h5", "old_directions.h5"]
    with h5py.File(written[0]) as file:
        assert file["dir_file"].asstr()[()] == "old_directions.h5"
    names = ["0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias"]
    if policy == "interpolated":
        names[4:4] = [f"1.{n}" for n in ("running_mean", "running_var", "num_batches_tracked")]
    ours = store.read_directions(surface)
    with h5py.File(written[1]) as file:
        for axis, group in (("alpha", "xdirection"), ("beta", "ydirection")):
            assert set(file[group]) == {str(i) for i in range(len(names))}
            for number, name in enumerate(names):
                expected = ours[axis].get(name, np.zeros(file[group][str(number)].shape))
                np.testing.assert_array_equal(file[group][str(number)], expected)
    back = {
        axis: {"kind": "file", "path": str(written[1]), "which": axis} for axis in ("alpha", "beta")
    }
    again = make_job("again", directions=back, **common)
    assert evaluate([again], Options(progress="none"), world=None) == 0
    first, second = (store.read(job.with_name(f"{name}.h5")) for name in ("first", "again"))
    for name, array in first.quantities.items():
        np.testing.assert_array_equal(second.quantities[name], array, err_msg=name)


def test_repeats_have_no_place_in_the_ancestors_files(tmp_path):
    """It has no axis for them."""
    grid = make_grid((-1.0, 1.0, 3), repeats=2)
    path = write_surface(tmp_path / "s.h5", grid, range(6), train_loss=value)
    with pytest.raises(UsageError, match="repeats"):
        export(path, "loss-landscape", tmp_path / "old.h5")
    assert not (tmp_path / "old.h5").exists()


# What can go wrong.


def test_a_surface_is_never_replaced(plane, capsys):
    """Neither the one that is exported, nor through a link, nor another."""
    other = write_surface(plane.with_name("other.h5"), make_grid((0, 1, 2)), [], train_loss=value)
    link = plane.with_name("link.h5")
    link.symlink_to(plane)
    for target in (plane, link, other):
        before = target.read_bytes()
        arguments = ["export", str(plane), "--to", "loss-landscape", "-o", str(target)]
        assert main(arguments) == 2
        assert "choose another name" in capsys.readouterr().err
        assert target.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--to", "vtp"], 2, "did you mean"),
        (["--to", "csv", "--output", "s.txt"], 2, ".csv"),
        (["--to", "csv", "--quantity", "train_loss"], 2, "--quantity"),
        (["--to", "vts", "--scale", "log"], 2, "--scale"),
        (["--to", "ply", "--scale", "loq"], 2, "linear"),
        (["--to", "vts", "--quantity", "train_los"], 2, "train_loss"),
        (["--to", "csv", "--output", "nowhere/s.csv"], 3, "nowhere"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_what_cannot_be_met_is_said(plane, capsys, monkeypatch, arguments, code, words):
    """One message, no file; 2 of a wrong request, 3 where nothing can be written."""
    monkeypatch.chdir(plane.parent)
    assert main(["export", "plane.h5", *arguments]) == code
    assert words in capsys.readouterr().err
    assert [p.name for p in plane.parent.iterdir()] == ["plane.h5"]


@pytest.mark.parametrize(
    ("form", "module"), [("vts", "vtkmodules"), ("glb", "trimesh"), ("netcdf", "h5netcdf")]
)
def test_a_missing_library_is_named_with_its_extra(bowl, form, module):
    """Exit code 3 and what to install."""
    code = (
        "import sys; sys.modules[sys.argv[1]] = None\n"
        "from lsengine.cli import main\n"
        "sys.exit(main(['export', sys.argv[2], '--to', sys.argv[3]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, module, str(bowl), form],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == EnvironmentUnfit.exit_code, done.stderr
    assert "pip install 'lsengine[" in done.stderr
    assert "Traceback" not in done.stderr
    assert [p.name for p in bowl.parent.iterdir()] == ["bowl.h5"]


def test_a_killed_export_leaves_the_old_file(plane, monkeypatch):
    """The new one appears when it is complete, and not before."""
    (path,) = export(plane, "npz")
    before = path.read_bytes()

    def interrupted(part, **arrays):
        part.write_text("half a line")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez_compressed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(plane, "npz")
    assert path.read_bytes() == before
    assert {p.name for p in plane.parent.iterdir()} == {"plane.h5", "plane.npz"}


@pytest.mark.parametrize("form", FORMATS)
def test_files_of_the_ancestor_are_exported_like_any_other(tmp_path, form):
    """A partial plane that is not square."""
    from tests.support import ancestor_files

    path = ancestor_files.write_surface(
        tmp_path / "old.h5", ALPHA, BETA, done=range(12), train_loss=lambda x, y: 1 + x**2 + y
    )
    (written,) = export(path, form)
    assert written.stat().st_size > 100


@pytest.mark.parametrize("form", ["vts", "glb", "ply"])
def test_a_surface_without_a_height_is_refused_with_counts_and_advice(tmp_path, form):
    """What keeps each cell out is counted, and the format that takes it is named."""
    grid = make_grid([-1, 1, 3], [-1, 1, 3])
    path = tmp_path / "nan.h5"
    write_surface(path, grid, range(8), failed=[8], train_loss=lambda row, column: np.nan)
    with pytest.raises(UsageError, match=r"8 NaN, 1 failed of 9 cells.*--to csv"):
        export(path, form)


def test_a_plane_with_nothing_to_join_is_drawn_cell_by_cell(tmp_path, capsys):
    """Without --as one cell becomes a heat map; contours would be refused."""
    path = tmp_path / "one.h5"
    write_surface(path, make_grid([0, 0, 1], [0, 0, 1]), [0], train_loss=lambda b, a: 2.0)
    assert main(["render", str(path)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "one-heatmap.png")
