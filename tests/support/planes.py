"""A plane of twelve cells, partly finished, made without evaluating anything."""

from __future__ import annotations

import numpy as np

from lsengine import store
from lsengine.surface.grid import Grid


def partial_plane(path, failed=()):
    """Lay a plane of 3 x 4 cells out and finish the first ten, one each second."""
    grid = Grid({"beta": np.arange(3.0), "alpha": np.linspace(-1, 2, 4)})
    attributes = {"name": "plane", "writing": "gather", "batch_size": 7, "fingerprint": "f"}
    attributes["precision"] = "float32"
    store.create(path, store.Layout(grid=grid, quantities=["train_loss"], attributes=attributes))
    finish(path, range(10), failed)
    return path


def finish(path, cells, failed=()):
    """Give cells the values 1, 2, 3, ..., some of them as failed."""
    cells = list(cells)
    values = {"train_loss": [1.0 + c for c in cells]}
    seconds = [1e9 + c for c in cells]
    failures = {c: f"no cell {c}" for c in failed}
    writer = store.Writer(path)
    writer.write(
        store.CellResults(
            cells=cells,
            values=values,
            wall_s=[0.1] * len(cells),
            finished=seconds,
            failures=failures,
        )
    )
    writer.close()
