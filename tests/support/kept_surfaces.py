"""Small surfaces and histories whose measures are known, as `launch/keep.py` keeps them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lsengine import store
from lsengine.surface.grid import Grid
from lsengine.surface.parts import Size, sizes_text
from tests.support.histories import make_history
from tests.support.launchers import ROOT

FLOOR = 0.2  # the loss at every centre, and at the end of every training


def make_surface(path: Path, axes: dict[str, Any], quantities: dict[str, Any], **more: Any) -> Path:
    """Write a finished surface with these values, and directions along its axes.

    ``lengths`` of the directions may be said, and a ``trajectory``.
    """
    grid = Grid({name: np.asarray(values, float) for name, values in axes.items()})
    attributes = {"name": path.stem, "writing": "gather", "batch_size": 1, "precision": "float32"}
    attributes |= {"job": f"data:\n  root: {ROOT}/data/x.npz\noutput: {path}\n"}
    if lengths := more.pop("lengths", None):
        sizes = {axis: Size({"weights": length}) for axis, length in lengths.items()}
        attributes["direction_sizes"] = sizes_text(sizes)
    directions = {axis: {"w": np.ones((2, 3), np.float32)} for axis in axes}
    layout = store.Layout(
        grid=grid, quantities=[*quantities], attributes=attributes, directions=directions, **more
    )
    store.create(path, layout)
    writer = store.Writer(path)
    values = {name: np.ravel(table).tolist() for name, table in quantities.items()}
    writer.write(_results(range(grid.size), values))
    if layout.trajectory is not None:
        run = range(grid.size, grid.size + len(layout.trajectory.columns["epoch"]))
        writer.write(_results(run, {"train_loss": [FLOOR] * len(run)}))
    writer.close()
    return path


def _results(cells: range, values: dict[str, list[float]]) -> store.CellResults:
    count = len(cells)
    return store.CellResults(
        cells=[*cells], values=values, wall_s=[0.1] * count, finished=[1e9] * count
    )


def bowl(path: Path, steepness: float = 1.0, ripple: float = 0.0) -> Path:
    """Write a circular bowl, whose basin has the area 0.1 pi / steepness, with ripples or not.

    The standard error is 1 % of the loss.
    """
    axis = np.linspace(-1, 1, 33)
    r = np.hypot(*np.meshgrid(axis, axis))
    loss = FLOOR + steepness * r**2 + ripple * (1 - np.cos(20 * r))
    quantities = {"train_loss": loss, "train_loss_se": 0.01 * loss}
    return make_surface(path, {"beta": axis, "alpha": axis}, quantities)


def parabola(path: Path, steepness: float, length: float = 1.0) -> Path:
    """Write a parabola, whose width is 2 sqrt(0.1 / steepness)."""
    alpha = np.linspace(-1, 1, 41)
    loss = FLOOR + steepness * alpha**2
    return make_surface(path, {"alpha": alpha}, {"train_loss": loss}, lengths={"alpha": length})


def line(path: Path, near: float, far: float) -> Path:
    """Write a line with parabolas of these steepnesses around 0 and 1, and no loss beyond 1."""
    alpha = np.linspace(-0.5, 1.5, 41)
    loss = FLOOR + np.minimum(near * alpha**2, far * (1 - alpha) ** 2)
    loss[alpha > 1 + 1e-9] = np.nan
    return make_surface(path, {"alpha": alpha}, {"train_loss": loss})


def curved(path: Path, inside: float, outside: float, reach: float = 0.5) -> Path:
    """Write a plane whose loss rises up to a distance and falls beyond, with eigenvalues.

    The moduli of the smallest ones are these shares of the largest.
    """
    axis = np.linspace(-1, 1, 21)
    r = np.hypot(*np.meshgrid(axis, axis))
    loss = FLOOR + 1 - np.cos(np.pi * r / reach)
    shares = np.where(r < reach, inside, outside)
    quantities = {"train_loss": np.where(r < 2 * reach, loss, loss - (r - 2 * reach) * 9)}
    quantities |= {"eigenvalue_min": -4 * shares, "eigenvalue_max": np.full(r.shape, 4.0)}
    return make_surface(path, {"beta": axis, "alpha": axis}, quantities)


def path_of(path: Path, *, sideways: float = 0.0, **attributes: Any) -> Path:
    """Write a plane with a path along alpha, and so much of it along beta, twice as long a unit."""
    steps = np.linspace(1, 0, 5)
    columns = {"epoch": np.arange(5), "alpha": steps, "beta": sideways * steps / 2}
    track = store.TrajectoryLayout(columns, ["train_loss"], attributes)
    axis = np.linspace(-1, 1, 3)
    return make_surface(
        path,
        {"beta": axis, "alpha": axis},
        {"train_loss": np.full((3, 3), FLOOR)},
        lengths={"alpha": 3.0, "beta": 6.0},
        trajectory=track,
    )


def write_history(folder: Path, name: str, error: float, loss: float = FLOOR) -> None:
    """Write the history of a training that ends with this test error and training loss."""
    columns = {
        "test_error": np.linspace(0.9, error, 41),
        "train_loss": np.linspace(2.3, loss, 41),
    }
    store.write_history(folder / f"history-{name}.h5", make_history(name, **columns))


def write_all(folder: Path) -> Path:
    """Write the files of all figures, so that every claim of the paper holds."""
    folder.mkdir()
    for name, error in {"resnet20": 0.07, "resnet20_noshort": 0.08, "resnet56": 0.06}.items():
        bowl(folder / f"{name}.h5", 10 * error)
        write_history(folder, name, error)
    for kind, error in {"": 0.13, "-slow": 0.2}.items():
        bowl(folder / f"resnet56_noshort{kind}.h5", 40 * error, ripple=1.0)
        write_history(folder, f"resnet56_noshort{kind}", error)
    lengths = iter((20.0, 10.0, 5.0, 8.0))
    for number, decay in enumerate(("wd0", "wd5e-4")):
        line(folder / f"interpolation-sgd-{decay}.h5", *((4.0, 8.0), (8.0, 4.0))[number])
        for batch, error, raw in (("bs128", 0.07, 3.0 - number), ("bs1024", 0.11, 2.0 + number)):
            name = f"sgd-{decay}-{batch}"
            write_history(folder, name, error - 0.01 * number)
            parabola(folder / f"filter-{name}.h5", 50 * error - number, next(lengths))
            parabola(folder / f"raw-{name}.h5", raw)
            bowl(folder / f"plane-{name}.h5", 50 * error - number)
            path_of(folder / f"trajectory-{name}.h5", explained_variance_ratio=[0.5, 0.2])
    for kind, worst in (("", 0.12), ("_noshort", 0.14)):
        for number, width in enumerate(("w8", "w16", "w32")):
            error = worst - 0.02 * number
            write_history(folder, f"resnet20{kind}-{width}", error)
            bowl(folder / f"width-resnet20{kind}-{width}.h5", 100 * error)
        curved(folder / f"curvature-resnet20{kind}.h5", 0.004, 0.3)
    chance = {"expected_cosine": np.sqrt(2 / np.pi / 1e6)}
    path_of(folder / "trajectory-random.h5", explained_displacement=3e-6, **chance)
    path_of(folder / "trajectory-toward.h5", sideways=0.01, explained_displacement=0.6, **chance)
    return folder
