"""Where the naive twin looks."""

from __future__ import annotations

import pytest

from lsengine.engine.prepare import twin_samples
from lsengine.surface.grid import Cell, make_grid


@pytest.mark.parametrize(
    ("alpha", "beta", "expected"),
    [
        ((-1.0, 1.0, 5), None, Cell(-0.5)),
        ((0.0, 1.0, 3), None, Cell(0.5)),
        ((-1.0, 1.0, 5), (-2.0, 2.0, 5), Cell(-0.5, -1.0)),
        ((0.0, 0.0, 1), None, None),
    ],
)
def test_the_other_cell_is_half_way_to_an_end(alpha, beta, expected):
    """Of every axis; a grid that is the centre alone has none."""
    assert twin_samples.away(make_grid(alpha, beta, 1)) == expected


def test_samples_are_drawn_once_each():
    """By the seed of the job; all of a small split."""
    job = type("Job", (), {"document": type("Document", (), {"seed": 3})})
    dataset = type("Data", (), {"splits": {"train": range(100)}})
    model = type("Model", (), {"parameters": lambda self: iter(())})()
    first, again = (twin_samples.draw(job, "train", dataset, model) for _ in range(2))
    assert (first == again).all()
    assert len(set(first.tolist())) == len(first) == 24
    dataset.splits["train"] = range(5)
    assert sorted(twin_samples.draw(job, "train", dataset, model)) == [0, 1, 2, 3, 4]
