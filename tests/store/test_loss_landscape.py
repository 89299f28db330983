"""Surface files of loss-landscape: every command that reads surfaces reads them."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest

from lsengine import store
from lsengine.cli import main
from lsengine.errors import SurfaceError
from tests.support import loss_landscape_files

X, Y = np.linspace(-1, 1, 7), np.linspace(-0.5, 0.75, 4)


def loss(x, y):
    """Return a loss that tells the axes apart."""
    return 0.1 + x**2 + 10 * (y + 0.1) ** 2


def percent(x, y):
    """Return an accuracy in percent."""
    return 100.0 * np.exp(-loss(x, y))


@pytest.mark.parametrize(
    "y", [None, Y, np.linspace(-1, 1, 7), np.array([0.0])], ids=["1d", "4x7", "square", "one row"]
)
def test_values_lie_where_loss_landscape_computed_them(tmp_path, y):
    """Row = y and column = x whatever the shape in the file says; percent become fractions."""
    path = loss_landscape_files.write_surface(
        tmp_path / "s.h5", X, y, train_loss=loss, train_acc=percent
    )
    surface = store.read(path)
    b, a = np.meshgrid([0.0] if y is None else y, X, indexing="ij")
    shape = (7,) if y is None else (len(y), 7)
    assert list(surface.axes) == (["alpha"] if y is None else ["beta", "alpha"])
    np.testing.assert_array_equal(surface.axes["alpha"], X)
    np.testing.assert_array_equal(surface.quantities["train_loss"], loss(a, b).reshape(shape))
    expected = percent(a, b).reshape(shape) / 100
    np.testing.assert_array_equal(surface.quantities["train_accuracy"], expected)
    assert surface.done.all()
    assert surface.attributes["dir_file"] == "s_directions.h5"


def test_a_right_shape_is_read_like_a_wrong_one(tmp_path):
    """Forks of loss-landscape that repaired the shape have the same buffer."""
    path = loss_landscape_files.write_surface(tmp_path / "s.h5", X, Y, train_loss=loss)
    wrong = store.read(path).quantities["train_loss"]
    with h5py.File(path, "r+") as file:
        values = file["train_loss"][...]
        assert values.shape == (7, 4)
        del file["train_loss"]
        file["train_loss"] = values.reshape(4, 7)
    np.testing.assert_array_equal(store.read(path).quantities["train_loss"], wrong)


def test_accuracies_up_to_one_are_fractions(tmp_path):
    """Forks store fractions; nothing is divided twice."""
    path = loss_landscape_files.write_surface(
        tmp_path / "s.h5", X, Y, done=range(5), train_loss=loss, test_acc=lambda x, y: 0.0 * x + 1.0
    )
    assert store.read(path).quantities["test_accuracy"][0, :5].tolist() == [1.0] * 5


def test_unfilled_cells_are_missing(tmp_path):
    """-1 in all datasets of a cell, in the order in which the authors' script computes cells."""
    path = loss_landscape_files.write_surface(
        tmp_path / "s.h5", X, Y, done=range(10), train_loss=loss, train_acc=percent
    )
    surface = store.read(path)
    assert surface.counts() == {"done": 10, "missing": 18, "failed": 0}
    assert surface.done.ravel()[:10].all()
    assert np.isnan(surface.quantities["train_accuracy"][~surface.done]).all()


def test_a_loss_without_logarithm_is_a_result(tmp_path):
    """Zero, negative, NaN, infinite, and even -1 where an accuracy stands beside it."""
    losses = np.array([0.0, -0.5, np.nan, np.inf, -1.0, 2.0, -1.0])
    path = loss_landscape_files.write_surface(
        tmp_path / "s.h5",
        X,
        done=range(6),
        train_loss=lambda x, y: losses.reshape(x.shape),
        train_acc=lambda x, y: 50.0 + 0.0 * x,
    )
    surface = store.read(path)
    assert surface.done.tolist() == [True] * 6 + [False]
    np.testing.assert_array_equal(surface.quantities["train_loss"][:6], losses[:6])


def test_eigenvalues_have_absences_of_their_own(tmp_path):
    """-1 for the largest and +1 for the smallest; beside losses, either makes a cell done."""
    values = {"max_eig": lambda x, y: 5 + x, "min_eig": lambda x, y: -1 + y}
    only = loss_landscape_files.write_surface(tmp_path / "e.h5", X, Y, done=[0, 1, 9], **values)
    surface = store.read(only)
    assert np.flatnonzero(surface.done).tolist() == [0, 1, 9]
    assert surface.quantities["eigenvalue_min"][1, 2] == -1 + Y[1]
    assert np.isnan(surface.quantities["eigenvalue_min"][3, 3])
    both = loss_landscape_files.write_surface(
        tmp_path / "b.h5", X, Y, done=range(6), train_loss=loss
    )
    with h5py.File(only) as source, h5py.File(both, "r+") as file:
        for name in values:
            source.copy(name, file)
    surface = store.read(both)
    assert np.flatnonzero(surface.done).tolist() == [0, 1, 2, 3, 4, 5, 9]
    assert np.isnan(surface.quantities["eigenvalue_max"][0, 2])
    assert np.isnan(surface.quantities["train_loss"][1, 2])


@pytest.mark.parametrize("what", ["directions", "empty", "wrong size"])
def test_what_is_no_surface_is_named(tmp_path, what):
    """A direction file, coordinates alone, and too few values."""
    path = tmp_path / "s.h5"
    if what == "directions":
        loss_landscape_files.write_directions(path, [np.ones(3)])
    else:
        loss_landscape_files.write_surface(path, X, Y)
    if what == "wrong size":
        with h5py.File(path, "r+") as file:
            file["train_loss"] = np.zeros((7, 3))
    words = {"directions": "holds directions", "empty": "without any values", "wrong size": "21"}
    with pytest.raises(SurfaceError, match=words[what]):
        store.read(path)


@pytest.mark.parametrize("y", [None, Y], ids=["1d", "2d"])
def test_status_render_and_compare_take_them(tmp_path, capsys, y):
    """The same commands, the same exit codes; a partial surface, too."""
    done = 7 if y is None else 14
    path = str(
        loss_landscape_files.write_surface(
            tmp_path / "old.h5", X, y, done=range(done), train_loss=loss, train_acc=percent
        )
    )
    assert main(["status", path, "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["done"] == done
    assert status["state"] == ("finished" if y is None else "partial")
    assert main(["compare", path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["surfaces"][0]["name"] == "old"
    for kind in ("curve",) if y is None else ("filled", "heatmap"):
        assert main(["render", path, "--as", kind, "-o", str(tmp_path / "p.png")]) == 0
        assert (tmp_path / "p.png").stat().st_size > 10_000
