"""The surface file: layout, order of writing, reading, damage."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray

from lsengine import store
from lsengine.errors import EnvironmentUnfit, SurfaceError, UsageError
from lsengine.store import CellResults, Layout
from lsengine.surface import DONE, FAILED, MISSING
from lsengine.surface.grid import make_grid


@pytest.fixture
def layout():
    """A 4 x 3 plane with two quantities and two small directions."""
    rng = np.random.default_rng(0)
    directions = {
        axis: {
            "conv.weight": rng.normal(size=(3, 3, 2, 2)).astype(np.float32),
            "scale": np.float32(rng.normal()) * np.ones((), np.float32),
        }
        for axis in ("alpha", "beta")
    }
    return Layout(
        make_grid([-1, 1, 4], [0, 2, 3]),
        ["train_loss", "train_accuracy"],
        {"name": "tiny", "batch_size": 7, "writing": "gather"},
        directions,
    )


def _results(cells, **failures):
    return CellResults(
        cells=list(cells),
        values={"train_loss": [c + 0.5 for c in cells], "train_accuracy": [c / 100 for c in cells]},
        wall_s=[0.1] * len(cells),
        finished=[1e9] * len(cells),
        worker=3,
        failures={int(k[1:]): v for k, v in failures.items()},
    )


def test_a_new_file_is_complete_and_empty(layout, tmp_path):
    """Everything exists at its full size from the start: NaN values, status missing."""
    store.create(tmp_path / "s.h5", layout)
    surface = store.read(tmp_path / "s.h5")
    assert (surface.status == MISSING).all()
    assert surface.status.shape == (3, 4)
    assert list(surface.axes) == ["beta", "alpha"]
    assert list(surface.quantities) == ["train_accuracy", "train_loss"]
    assert np.isnan(surface.quantities["train_loss"]).all()


def test_datasets_are_contiguous_unfiltered_and_allocated(layout, tmp_path):
    """The conditions under which independent parallel writes need no metadata."""
    store.create(tmp_path / "s.h5", layout)
    with h5py.File(tmp_path / "s.h5") as file:
        for name in ("train_loss", "status", "failure", "wall_s", "precision_error"):
            dataset = file[name]
            assert dataset.chunks is None, name
            assert dataset.id.get_offset() is not None, name
            assert dataset.id.get_storage_size() == dataset.nbytes, name


def test_values_land_in_their_cells(layout, tmp_path):
    """Cell c of a plane is row c // A, column c % A, for runs across rows too."""
    store.create(tmp_path / "s.h5", layout)
    writer = store.Writer(tmp_path / "s.h5")
    writer.write(_results([9, 2, 3, 4, 5]))
    writer.close()
    surface = store.read(tmp_path / "s.h5")
    expected = np.full(12, np.nan)
    expected[[2, 3, 4, 5, 9]] = np.array([2, 3, 4, 5, 9]) + 0.5
    np.testing.assert_array_equal(surface.quantities["train_loss"].ravel(), expected)
    assert surface.counts() == {"done": 5, "missing": 7, "failed": 0}
    assert surface.provenance["worker"].ravel()[9] == 3


def test_a_surface_that_has_gone_before_the_first_write_is_said_so(tmp_path, monkeypatch):
    """A worker opens the file late: then it may be gone, or go between its two openings."""
    path = tmp_path / "s.h5"
    with pytest.raises(EnvironmentUnfit, match="laid out is not there"):
        store.Writer(path)
    h5py.File(path, "w").close()
    opened = h5py.File

    def open_and_lose(*arguments, **options):
        file = opened(*arguments, **options)
        path.unlink()
        return file

    monkeypatch.setattr(h5py, "File", open_and_lose)
    with pytest.raises(EnvironmentUnfit, match="laid out is not there"):
        store.Writer(path)


def test_failed_cells_keep_their_reason_and_no_values(layout, tmp_path):
    """A failed cell is status 2 with its reason; success later clears both."""
    store.create(tmp_path / "s.h5", layout)
    writer = store.Writer(tmp_path / "s.h5")
    writer.write(_results([1, 2], c2="RuntimeError: grösser " + "x" * 500))
    surface = store.read(tmp_path / "s.h5")
    assert surface.status.ravel()[1:3].tolist() == [DONE, FAILED]
    assert surface.provenance["failure"].ravel()[2].decode().startswith("RuntimeError: grösser")
    assert np.isnan(surface.quantities["train_loss"].ravel()[2])
    writer.write(_results([2]))
    writer.close()
    surface = store.read(tmp_path / "s.h5")
    assert surface.status.ravel()[2] == DONE
    assert surface.provenance["failure"].ravel()[2] == b""


def test_nan_and_infinity_are_results(layout, tmp_path):
    """A cell whose loss is NaN or infinite is done, not missing."""
    store.create(tmp_path / "s.h5", layout)
    results = _results([0, 1])
    results.values["train_loss"] = [float("nan"), float("inf")]
    writer = store.Writer(tmp_path / "s.h5")
    writer.write(results)
    writer.close()
    assert store.read(tmp_path / "s.h5").counts()["done"] == 2


def test_status_is_written_after_the_values(layout, tmp_path, monkeypatch):
    """If writing the values fails half way, no cell is marked done."""
    store.create(tmp_path / "s.h5", layout)
    writer = store.Writer(tmp_path / "s.h5")
    put = writer._put

    def fail_on_accuracy(name, cells, values):
        if name == "train_accuracy":
            raise OSError(28, "No space left on device")
        put(name, cells, values)

    monkeypatch.setattr(writer, "_put", fail_on_accuracy)
    with pytest.raises(EnvironmentUnfit, match="No space left"):
        writer.write(_results([0, 1, 2]))
    writer.close()
    assert store.read(tmp_path / "s.h5").counts()["done"] == 0


def test_a_reader_sees_finished_cells_while_the_writer_holds_the_file(layout, tmp_path):
    """Another process reads what has been written, without locking trouble."""
    store.create(tmp_path / "s.h5", layout)
    writer = store.Writer(tmp_path / "s.h5")
    writer.write(_results([0, 1, 2]))
    script = "import sys; from lsengine import store; print(store.read(sys.argv[1]).counts())"
    command = [sys.executable, "-c", script, str(tmp_path / "s.h5")]
    seen = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    writer.close()
    assert seen.stdout.strip() == "{'done': 3, 'missing': 9, 'failed': 0}"


def test_directions_come_back_as_they_were(layout, tmp_path):
    """Names with dots, repeated lengths and zero-dimensional parameters included."""
    store.create(tmp_path / "s.h5", layout)
    found = store.read_directions(tmp_path / "s.h5")
    for axis, parameters in layout.directions.items():
        for name, values in parameters.items():
            np.testing.assert_array_equal(found[axis][name], values)


@pytest.mark.parametrize("repeats", [1, 3])
def test_xarray_opens_it_with_named_coordinates(layout, tmp_path, repeats):
    """`open_dataset` gives labelled quantities, `open_datatree` the directions, too."""
    grid = layout.grid if repeats == 1 else make_grid([-1, 1, 4], repeats=repeats)
    directions = {"alpha": {"w": np.ones((repeats, 2, 2), np.float32)}}
    store.create(tmp_path / "s.h5", Layout(grid, layout.quantities, layout.attributes, directions))
    with xarray.open_dataset(tmp_path / "s.h5") as dataset:
        assert dataset["train_loss"].dims == tuple(grid.axes)
        np.testing.assert_array_equal(dataset["alpha"], grid.axes["alpha"])
        assert dataset.attrs["format"] == "lsengine-surface"
    with xarray.open_datatree(tmp_path / "s.h5") as tree:
        assert tree["train_loss"].dims == tuple(grid.axes)
        assert tree["directions/along_alpha/w"].shape == (repeats, 2, 2)


@pytest.mark.parametrize("damage", ["truncated", "text", "empty", "foreign"])
def test_damaged_and_foreign_files_are_refused(layout, tmp_path, damage):
    """What is no surface is refused with its name and is left as it is."""
    path = tmp_path / "s.h5"
    store.create(path, layout)
    if damage == "truncated":
        os.truncate(path, 3000)
    elif damage == "text":
        path.write_text("alpha,beta\n")
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
        with h5py.File(path, "w") as file:
            file["train_loss"] = np.zeros(3)
    before = path.read_bytes()
    with pytest.raises(SurfaceError, match=str(path)):
        store.read(path)
    assert path.read_bytes() == before


def test_a_newer_format_is_refused_with_both_versions(layout, tmp_path):
    """A file of the future says what it is and what this program reads."""
    store.create(tmp_path / "s.h5", layout)
    with h5py.File(tmp_path / "s.h5", "r+") as file:
        file.attrs["format_version"] = 99
    with pytest.raises(SurfaceError, match=r"99.*newer lsengine"):
        store.read(tmp_path / "s.h5")


@pytest.mark.parametrize("kind", ["missing", "directory"])
def test_paths_that_are_no_files_are_usage_errors(tmp_path, kind):
    """A mistyped name is the user's error, not a damaged file."""
    path = tmp_path / "no.h5"
    if kind == "directory":
        path.mkdir()
    with pytest.raises(UsageError, match=str(path)):
        store.read(path)


def test_a_file_that_does_not_fit_leaves_nothing_behind(layout, tmp_path):
    """With a limit on file size, as on a full disk, no part and no surface remain."""
    script = (
        "import resource, signal, sys; sys.path.insert(0, sys.argv[2]);"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096));"
        "from pathlib import Path; from lsengine import store;"
        "from lsengine.surface.grid import make_grid;"
        "layout = store.Layout(make_grid([-1, 1, 99], [-1, 1, 99]), ['train_loss'], {});"
        "store.create(Path(sys.argv[1]), layout)"
    )
    assert resource.RLIMIT_FSIZE is not None
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", script, str(tmp_path / "s.h5"), root]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "EnvironmentUnfit" in ended.stderr
    assert list(tmp_path.iterdir()) == []
