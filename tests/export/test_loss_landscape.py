"""Files of loss-landscape, read back as its scripts would and as we do."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from lsengine import store
from lsengine.errors import UsageError
from lsengine.export import export
from lsengine.surface.grid import make_grid
from tests.support.exported import ALPHA, BETA, value, write_surface
from tests.support.surfaces import edited


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
def test_directions_go_to_loss_landscape_and_back(make_job, tmp_path, policy):
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


def test_repeats_have_no_place_in_files_of_loss_landscape(tmp_path):
    """It has no axis for them."""
    grid = make_grid((-1.0, 1.0, 3), repeats=2)
    path = write_surface(tmp_path / "s.h5", grid, range(6), train_loss=value)
    with pytest.raises(UsageError, match="repeats"):
        export(path, "loss-landscape", tmp_path / "old.h5")
    assert not (tmp_path / "old.h5").exists()


def test_zeros_are_not_written_without_end(plane, caplog):
    """A file may say that the network is huge; directions of what does not move are left out."""
    with edited(plane) as file:
        file["directions/along_alpha/w"] = file["directions/along_beta/w"] = np.zeros(2, "f4")
        file["directions/state"] = np.bytes_(b'[["w", [2], true], ["v", [9999999999], true]]')
    written = export(plane, "loss-landscape", plane.with_name("old.h5"))
    assert [path.name for path in written] == ["old.h5"]
    assert "9,999,999,999 numbers of them are zero" in caplog.text
