"""Surfaces to export."""

from __future__ import annotations

import numpy as np
import pytest

from lsengine.store import TrajectoryLayout
from lsengine.surface.grid import make_grid
from tests.support.exported import value, write_surface


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
