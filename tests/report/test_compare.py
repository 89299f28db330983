"""Tables of flatness figures: their rows, notes, files and refusals."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import yaml

from lsengine.cli import main
from lsengine.errors import UsageError
from lsengine.report import compare
from lsengine.report.flatness import Level
from lsengine.store import CellResults, Layout, Writer, create
from lsengine.surface import DONE, FAILED, MISSING, Surface
from lsengine.surface.grid import Grid
from tests.support.basins import A, B, H, bowl, curve, figures, plane


def notes(surface: Surface, level: str = "+1") -> str:
    """Return the notes of one surface."""
    return "; ".join(compare.compare([surface], level=Level.parse(level)).rows[0].notes)


def test_beyond_the_grid_everything_is_a_lower_bound():
    """A level that the grid does not reach marks area and radius, and leaves convexity out."""
    found, said = figures(plane(), "50"), notes(plane(), "50")
    assert found["area"].is_bound
    assert found["area"].value == pytest.approx(2.0 * 1.6)
    assert found["basin"].is_bound
    assert found["radius"].is_bound
    assert found["convexity"].value is None
    assert "area, basin, radius at least: reaches the end" in said
    table = compare.text(compare.compare([plane()], level=Level("=", 50.0)))
    assert ">= 3.2" in table


def test_a_hole_in_the_basin_makes_bounds_and_is_counted():
    """A failed cell below the level bounds the area; the figures use the others."""
    status = np.full((61, 81), DONE, np.uint8)
    status[33, 42] = FAILED
    found, said = figures(plane(status=status)), notes(plane(status=status))
    whole = figures(plane())["area"].value
    assert found["area"].is_bound
    assert 0.98 * whole < found["area"].value < whole
    assert "1 failed" in said


def test_of_a_partial_plane_only_complete_rows_and_columns_count():
    """Every second row and column done gives the figures of the coarser grid."""
    status = np.full((61, 81), MISSING, np.uint8)
    status[::2, ::2] = DONE
    found = figures(plane(status=status))
    coarse = figures(plane(alphas=41, betas=31))
    for name in ("area", "basin", "radius", "curvature_1", "convexity"):
        assert found[name].value == pytest.approx(coarse[name].value)
    assert "cells missing; measured from 41" in notes(plane(status=status))


def test_without_a_cell_at_the_centre_nothing_is_guessed():
    """An even number of points has no centre: only the area at a given loss is known."""
    even = plane(alphas=80, betas=60)
    assert {n for n, m in figures(even).items() if m.value is not None} == {"minima"}
    assert "no finite cell at the centre" in notes(even)
    known = {n for n, m in figures(even, "1.3").items() if m.value is not None}
    assert known == {"level", "area", "minima"}


def test_a_centre_above_the_level_has_no_basin():
    """The reason names the centre's loss."""
    assert figures(plane(), "0.2")["radius"].value is None
    assert "the centre's own loss, 0.3, is above the level" in notes(plane(), "0.2")


def test_a_width_of_few_cells_is_said_to_be_coarse():
    """Fewer than five cells in it: a note, which a finer grid takes away."""
    coarse, fine = curve(alphas=9), curve(alphas=81)
    assert figures(coarse)["width"].value < 5 * 0.25
    assert figures(fine)["width"].value > 5 * 0.025
    assert "fewer than 5 cells lie within the width" in notes(coarse)
    assert "fewer than 5 cells" not in notes(fine)


def test_the_table_says_what_its_figures_mean():
    """Of the figures that it has, and whose they are; nothing about others."""
    of_planes = compare.text(compare.compare([plane()]))
    of_curves = compare.text(compare.compare([curve()]))
    assert "radius: median distance from the centre to the level" in of_planes
    assert "(Hochreiter" not in of_curves
    assert "width: length of the interval around the centre" in of_curves
    assert "test error:" not in of_planes


def test_planes_and_curves_stand_in_tables_of_their_own():
    """Text, CSV and JSON hold the same numbers."""
    found = compare.compare([plane(), curve((2.0, 4.0, 8.0))], level=Level("+", 1.0))
    text = compare.text(found)
    assert text.index("convexity") < text.index("width")
    assert "7.00 %" in text
    rows = list(csv.DictReader(io.StringIO(compare.csv_text(found))))
    measures = [row.measures for row in found.rows]
    assert float(rows[0]["area"]) == measures[0]["area"].value
    assert rows[0]["width"] == ""
    assert float(rows[1]["width_q25"]) == measures[1]["width"].spread[0]
    plain = json.loads(json.dumps(compare.as_dict(found)))
    assert plain["surfaces"][0]["area"] == measures[0]["area"].value
    assert plain["surfaces"][1]["quartiles"]["width"] == list(measures[1]["width"].spread)


def test_what_cannot_be_compared_is_refused():
    """Another quantity, an accuracy, nothing done."""
    with pytest.raises(UsageError, match=r"no quantity 'train_los'.*did you mean"):
        compare.compare([plane()], quantity="train_los")
    with pytest.raises(UsageError, match="measured on a loss"):
        compare.compare([plane()], quantity="test_accuracy")
    with pytest.raises(UsageError, match="none of 4,941 cells is done"):
        compare.compare([plane(status=np.zeros((61, 81), np.uint8))])


def test_the_command_prints_a_table_and_writes_csv(tmp_path, capsys):
    """From a file to text, CSV and JSON."""
    path, axis = tmp_path / "bowl.h5", np.linspace(-1, 1, 21)
    create(
        path,
        Layout(
            grid=Grid({"beta": axis, "alpha": axis}),
            quantities=["train_loss"],
            attributes={"name": "bowl"},
        ),
    )
    x, y = np.meshgrid(axis, axis)
    cells = list(range(x.size))
    results = CellResults(
        cells=cells,
        values={"train_loss": list(bowl(x, y).ravel())},
        wall_s=[0.0] * 441,
        finished=[0.0] * 441,
    )
    writer = Writer(path)
    writer.write(results)
    writer.close()
    assert main(["compare", str(path), "--csv", str(tmp_path / "t.csv")]) == 0
    assert "bowl" in capsys.readouterr().out
    assert (tmp_path / "t.csv").read_text().startswith("name,source,quantity,level")
    assert main(["compare", str(path), "--json", "--level", "+1"]) == 0
    assert json.loads(capsys.readouterr().out)["surfaces"][0]["level"] == pytest.approx(1.3)


def test_a_line_between_minima_has_the_width_of_both():
    """Two parabolas of known width at 0 and 1, each at its own level, and both errors."""
    alpha = np.linspace(-1.0, 2.0, 301)
    left = alpha < 0.5
    values = np.where(left, 0.3 + 16 * alpha**2, 0.1 + 64 * (alpha - 1) ** 2)
    accuracy = np.where(left, 0.97, 0.94)
    toward = {"kind": "toward", "normalize": "none", "ignore": []}
    line = Surface(
        name="line", source="l.h5", axes={"alpha": alpha},
        quantities={"train_loss": values, "test_accuracy": accuracy},
        status=np.full(values.shape, DONE, np.uint8),
        attributes={"identity": json.dumps({"directions": {"alpha": toward}})},
    )  # fmt: skip
    found = figures(line, "+1")
    assert found["width"].value == pytest.approx(2 * math.sqrt(1 / 16), rel=1e-2)
    assert found["other_width"].value == pytest.approx(2 * math.sqrt(1 / 64), rel=1e-2)
    assert found["other_error"].value == pytest.approx(0.06)
    assert "width at 1" in compare.text(compare.compare([line, curve()]))
    beyond = replace(line, axes={"alpha": alpha - 1.005})
    assert figures(beyond)["other_width"].why == "no cell at 1"


@pytest.mark.parametrize("grid", [(9, 9, 1.0), (5, 7, 1.5), (21, 21, 8.0)], ids=str)
def test_the_finer_grid_that_is_advised_does_resolve_the_basin(grid):
    """With few cells in the basin a note gives a grid; on it, the note is gone."""
    alphas, betas, reach = grid
    said = notes(plane(alphas=alphas, betas=betas, reach=(reach, reach)))
    found = re.search(r"only \d+ cells? lies? in the basin; a job with (grid: .*) would", said)
    assert found
    advised = yaml.safe_load(found[1])["grid"]
    (low, high, points), (_, far, rows) = advised["alpha"], advised["beta"]
    assert low == -high
    finer = plane(alphas=points, betas=rows, reach=(high, far))
    assert "in the basin" not in notes(finer)
    measures = figures(finer)
    assert not measures["area"].is_bound
    assert measures["area"].value == pytest.approx(math.pi * H / math.sqrt(A * B), rel=0.1)


def test_the_finer_grid_resolves_a_valley_narrower_than_the_cells():
    """A basin of one column of cells is narrower than they are; the grid advised has enough."""

    def valley(x, y):
        return 0.3 + 4e3 * x**2 + 2 * y**2

    said = notes(plane(valley, alphas=9, betas=9, reach=(1.0, 1.0)))
    advised = yaml.safe_load(re.search(r"a job with (grid: .*) would", said)[1])["grid"]
    (_, high, points), (_, far, rows) = advised["alpha"], advised["beta"]
    finer = plane(valley, alphas=points, betas=rows, reach=(high, far))
    assert "in the basin" not in notes(finer)
    assert figures(finer)["area"].value == pytest.approx(math.pi / math.sqrt(8e3), rel=0.5)
    assert points * rows < 60 * 60


def test_surfaces_of_one_name_are_told_apart_by_their_files():
    """Table and CSV append the parts in which the files differ; another name stays as it is."""
    one, two, three = plane(), plane(), plane()
    files = ("run1/s.h5", "run2/s.h5", "other.h5")
    named = [
        replace(s, source=f, name=n)
        for s, f, n in zip((one, two, three), files, ("a", "a", "b"), strict=True)
    ]
    rows = compare.compare(named).rows
    assert [row.name for row in rows] == ["a (run1)", "a (run2)", "b"]
    assert [row.source for row in rows] == list(files)


def test_what_is_too_large_for_arithmetic_is_not_known(recwarn):
    """No figure is infinite, and nobody is warned of NumPy's."""
    measures = figures(plane(lambda x, y: 1e307 * (1 + x**2 + y**2)), level="x2")
    assert all(m.value is None or np.isfinite(m.value) for m in measures.values())
    assert not recwarn.list


def test_a_surface_of_the_test_split_has_the_loss_that_it_has():
    """Alone there is no column of the training loss; beside another one both losses are there."""
    losses = curve().quantities["train_loss"]
    both = replace(curve(), quantities={"train_loss": losses, "test_loss": losses})
    alone = replace(both, quantities={"test_loss": both.quantities["test_loss"]})
    centre = float(compare.compare([both]).rows[0].measures["train_loss"].value)
    table = compare.compare([alone])
    assert table.rows[0].measures["test_loss"].value == centre
    assert "train loss" not in compare.text(table)
    assert "n/a" not in compare.text(table)
    mixed = compare.compare([alone, both], quantity="test_loss")
    assert "train loss n/a: not evaluated there" in compare.text(mixed)
    assert [row.measures["test_loss"].value for row in mixed.rows] == [centre, centre]
    assert compare.as_dict(table)["surfaces"][0]["train_loss"] is None
