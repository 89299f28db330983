"""CSV, read back by Python's own reader."""

from __future__ import annotations

import csv

import numpy as np

from lsengine import store
from lsengine.export import export
from tests.support.exported import ALPHA, BETA, value


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
