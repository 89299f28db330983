"""Surfaces to export, with odd values and holes."""

from __future__ import annotations

import numpy as np

from lsengine import store
from lsengine.store import CellResults, Layout

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
