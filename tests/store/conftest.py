"""A small surface to be written and read."""

from __future__ import annotations

import numpy as np
import pytest

from lsengine.store import CellResults, Layout
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
        grid=make_grid([-1, 1, 4], [0, 2, 3]),
        quantities=["train_loss", "train_accuracy"],
        attributes={"name": "tiny", "batch_size": 7, "writing": "gather"},
        directions=directions,
    )


@pytest.fixture
def results():
    """Return a function that makes results of cells; keywords ``c7="why"`` are failures."""
    return _results


def _results(cells, **failures):
    return CellResults(
        cells=list(cells),
        values={"train_loss": [c + 0.5 for c in cells], "train_accuracy": [c / 100 for c in cells]},
        wall_s=[0.1] * len(cells),
        finished=[1e9] * len(cells),
        worker=3,
        failures={int(k[1:]): v for k, v in failures.items()},
    )
