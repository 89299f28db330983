"""Compare surfaces: a table of flatness figures beside training loss and test error.

The arithmetic is `lsengine.report.flatness`'; definitions and sources are in `docs/COMPARE.md`.
Reads no file and draws nothing: `Surface` values in, text out.

Shape suffixes: R repeats, A alphas.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lsengine import wording
from lsengine.errors import UsageError
from lsengine.report import flatness
from lsengine.report.flatness import Level, Measure, PiecewisePlane
from lsengine.surface import DONE, MISSING, Surface, cells
from lsengine.surface.cells import Floats
from lsengine.surface.quantities import describe
from lsengine.wording import did_you_mean

FIGURES = {
    "level": "",
    "train_loss": "",
    "test_loss": "",  # of surfaces without the other
    "test_error": "",
    "area": "of the plane where the loss is at most the level (Li et al. 2018)",
    "basin": "the part of it around the centre (a flat minimum of Hochreiter, Schmidhuber 1997)",
    "radius": "median distance from the centre to the level, over all rays (Huang et al. 2020)",
    "curvature_1": "second derivatives of a quadratic that fits the cells around the centre, the",
    "curvature_2": "greater and the smaller (Dinh et al. 2017)",
    "convexity": "area of the basin over that of its convex hull (Zunic, Rosin 2004)",
    "minima": "cells with a lower loss than all eight neighbours",
    "width": "length of the interval around the centre where the loss is at most the level",
    "curvature": "second derivative of a quadratic that fits the five cells around the centre",
    "other_error": "test error where the direction toward another checkpoint ends",
    "other_width": "width around that end, at the level that belongs to it",
}
"""Every figure in the order of the table: what is measured, if that is not plain, and whose
measure it is; docs/COMPARE.md says it at length."""

_Figures = tuple[dict[str, Measure], list[str]]  # and notes
_HEADINGS = {  # of figures that are not called as they are named
    "curvature_1": "curv. 1",
    "curvature_2": "curv. 2",
    "other_error": "error at 1",
    "other_width": "width at 1",
}
FEW = 20  # cells in a basin below which its outline is coarse
FEW_ALONG = 5  # cells within a width below which that is coarse


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The figures of one surface."""

    name: str
    source: str  # the file
    measures: dict[str, Measure]  # by a key of `FIGURES`; a plane and a curve differ in them
    notes: tuple[str, ...]  # what a reader must know to take the figures for what they are


@dataclass(frozen=True, slots=True)
class Comparison:
    """All rows, and what they were measured on."""

    rows: tuple[Row, ...]
    quantity: str
    level: Level

    def __str__(self) -> str:
        return text(self)


def compare(
    surfaces: Sequence[Surface], *, level: Level | None = None, quantity: str | None = None
) -> Comparison:
    """Measure every surface by the same rules.

    Args:
        surfaces: Planes, curves, curves with repeats; finished or not.
        level: The loss up to which a surface counts as flat; default 0.1 above the centre's.
        quantity: A loss that all surfaces have; default the training loss, else the test loss.

    Raises:
        UsageError: If a surface lacks the quantity, or nothing of it is done.
    """
    level = level or Level()
    chosen = _quantity(surfaces, quantity)
    for surface in surfaces:
        if not surface.done.any():
            raise UsageError(
                f"{surface.source}: none of {surface.status.size:,} cells is done; run lsengine "
                "eval on its job first"
            )
    names = wording.distinct([s.name for s in surfaces], [s.source for s in surfaces])
    named = [s.renamed(name) for s, name in zip(surfaces, names, strict=True)]
    losses = ["train_loss"]
    if any("train_loss" not in surface.quantities for surface in named):
        losses.append("test_loss")
    rows, centres = [], [_centre(s, losses) for s in named]
    shown = set[str]().union(*centres)
    for surface, of_centre in zip(named, centres, strict=True):
        with np.errstate(all="ignore"):  # of what is too large for arithmetic nothing is known
            measures, notes = (_plane if surface.is_plane else _curve)(
                surface, chosen, level, of_centre
            )
        measures = {name: measure.known() for name, measure in measures.items()}
        absent = dict.fromkeys(shown - of_centre.keys(), Measure(None, why="not evaluated there"))
        told = (*notes, *_reasons(measures | absent))
        rows.append(Row(name=surface.name, source=surface.source, measures=measures, notes=told))
    return Comparison(tuple(rows), chosen, level)


def _quantity(surfaces: Sequence[Surface], asked: str | None) -> str:
    if asked and describe(asked).is_percent:
        raise UsageError(
            f"compare: {asked} rises towards a minimum; flatness is measured on a loss"
        )
    shared = set.intersection(*(set(s.quantities) for s in surfaces)) if surfaces else set()
    names = (asked,) if asked else ("train_loss", "test_loss")
    if chosen := next((name for name in names if name in shared), None):
        return chosen
    wanted = names[0]
    for surface in surfaces:
        if wanted not in surface.quantities:
            raise UsageError(
                f"{surface.source}: has no quantity {wanted!r}; it has: "
                f"{', '.join(sorted(surface.quantities))}"
                f"{did_you_mean(wanted, surface.quantities)}"
            )
    raise UsageError("compare: no surface given; name at least one surface file")


def _plane(
    surface: Surface, quantity: str, level: Level, of_centre: dict[str, Measure]
) -> _Figures:
    plane = cells.joined(cells.plane(surface, describe(quantity)))
    values = plane.values / describe(quantity).factor
    pieces = PiecewisePlane(
        alpha=plane.alpha, beta=plane.beta, values=values, has_gaps=bool(plane.missing.any())
    )
    at = level.above(pieces.centre_value)
    measures = {"level": at, **of_centre}
    names = ("area", "basin", "convexity", "radius")
    if at.value is None:
        measures |= dict.fromkeys(names, Measure(None, why=at.why))
    else:
        measures["area"] = pieces.area(at.value)
        measures["basin"], measures["convexity"] = pieces.basin(at.value)
        measures["radius"] = pieces.radius(at.value)
    measures["curvature_1"], measures["curvature_2"] = pieces.curvatures()
    measures["minima"] = pieces.minima()
    notes = _about_cells(plane.tally, plane.coarse.replace("drawn ", ""))
    if at.value is not None and measures["basin"].value is not None:
        count = pieces.cells_below(at.value)
        if count < FEW:
            plural = "cell lies" if count == 1 else "cells lie"
            grid = _finer_grid(pieces, measures["basin"].value, at.value)
            notes.append(f"only {count} {plural} in the basin; a job with {grid} would resolve it")
    return measures, notes


def _finer_grid(pieces: PiecewisePlane, basin: float, level: float) -> str:
    """Return a grid, as one writes it in a job, in which the basin has `FEW` cells or more.

    As many points go no farther than the basin may; where that does not do, there are more.
    """
    ends = {"alpha": pieces.alpha, "beta": pieces.beta}
    spans = {name: float(axis[-1] - axis[0]) for name, axis in ends.items()}
    cell = math.prod(spans[name] / max(axis.size - 1, 1) for name, axis in ends.items())
    # Across a valley narrower than the cells these are too wide, and linear pieces too narrow;
    # of a parabola the geometric mean of both is its true width, but for a factor of 1.4.
    count = float(pieces.cells_below(level))
    if cell and basin:
        count = min(count, math.sqrt(count * basin / cell))
    axes = []
    for (name, axis), far in zip(ends.items(), pieces.reach(level), strict=True):
        power = 10.0 ** (math.floor(math.log10(far)) - 1)
        rounded = math.ceil(far / power - 1e-9) * power  # up, to two digits
        reach = min(float(np.abs(axis).max()), rounded) or 1.0
        gain = spans[name] / (2.0 * reach)
        more = max(1.0, math.sqrt(2.0 * FEW / count) / gain) if gain else FEW
        points = 2 * math.ceil((axis.size - 1) * more / 2) + 1
        axes.append(f"{name}: [{-reach:g}, {reach:g}, {points}]")
    return f"grid: {{{', '.join(axes)}}}"


def _curve(
    surface: Surface, quantity: str, level: Level, of_centre: dict[str, Measure]
) -> _Figures:
    line = cells.line(surface, describe(quantity))
    alpha, values_RA = line.alpha, line.values / describe(quantity).factor
    levels, widths, curvatures = [], [], []
    for row, status in zip(values_RA, line.status, strict=True):
        if not (status == DONE).any():
            continue
        existing = status != MISSING  # joined over missing cells, as in pictures
        x, y = alpha[existing], row[existing]
        centre = flatness.curve_centre(x, y)
        levels.append(level.above(None if centre is None else float(y[centre])))
        known = levels[-1].value
        widths.append(
            Measure(None, why=levels[-1].why) if known is None else flatness.width(x, y, known)
        )
        curvatures.append(flatness.curvature(x, y))
    measures = {
        "level": next((m for m in levels if m.value is not None), levels[0]),
        **of_centre,
        "width": flatness.over_repeats(widths),
        "curvature": flatness.over_repeats(curvatures),
    }
    if surface.marked_minima:
        measures |= _other_minimum(surface, alpha, values_RA[0], level)
    notes = _about_cells(cells.tally(surface.status, [surface.quantities[quantity]]), "")
    narrowest = min((m.value for m in widths if m.value is not None), default=math.inf)
    if len(alpha) > 1 and narrowest < FEW_ALONG * np.median(np.diff(alpha)):
        notes.append(f"fewer than {FEW_ALONG} cells lie within the width; a finer grid resolves it")
    if len(widths) > 1:
        notes.append(f"{len(widths)} repeats: median, quartiles in brackets")
    return measures, notes


def _other_minimum(
    surface: Surface, alpha: Floats, values: Floats, level: Level
) -> dict[str, Measure]:
    """Return test error and width at 1, where a direction toward a checkpoint ends."""
    finite, end = np.isfinite(values), surface.marked_minima[0][0]
    x, y = alpha[finite] - end, values[finite]
    at = flatness.curve_centre(x, y)
    if at is None:
        return dict.fromkeys(("other_error", "other_width"), Measure(None, why="no cell at 1"))
    known = level.above(float(y[at]))
    width = known if known.value is None else flatness.width(x, y, known.value)
    accuracy = cells.value_at(surface, "test_accuracy", alpha=end)
    unknown = Measure(None, why="not evaluated there")
    error = unknown if accuracy is None else Measure(1.0 - accuracy)
    return {"other_error": error, "other_width": width}


def _centre(surface: Surface, losses: Sequence[str]) -> dict[str, Measure]:
    """Return losses and test error (a fraction) of the cell at the centre, those that it has."""
    measures = {}
    for figure, quantity in (*((n, n) for n in losses), ("test_error", "test_accuracy")):
        if quantity in surface.quantities:
            value = cells.value_at(surface, quantity)
            value = 1.0 - value if figure == "test_error" and value is not None else value
            why = "" if value is not None else flatness.NO_CENTRE
            measures[figure] = Measure(value, why=why)
    return measures


def _about_cells(counts: cells.Tally, coarse: str) -> list[str]:
    tail = f"; measured {coarse}" if coarse else ""
    missing = f"{counts.missing:,} of {counts.cells:,} cells missing{tail}"
    bad = f"cells without a finite loss: {counts.bad_text()}"
    return [line for line, count in ((missing, counts.missing), (bad, counts.bad)) if count]


def _reasons(measures: dict[str, Measure]) -> list[str]:
    """Return one sentence for each reason why figures are not known or are bounds."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, measure in measures.items():
        if measure.why:
            what = "n/a" if measure.value is None else "at least" if measure.is_bound else "partly"
            groups.setdefault((what, measure.why), []).append(_heading(name))
    return [f"{', '.join(names)} {what}: {why}" for (what, why), names in groups.items()]


def _heading(figure: str) -> str:
    return _HEADINGS.get(figure, figure.replace("_", " "))


def text(comparison: Comparison) -> str:
    """Return the comparison as a table for people, planes and curves apart."""
    blocks = []
    for kind in ("area", "width"):
        rows = [r for r in comparison.rows if kind in r.measures]
        if rows:
            names = [n for n in FIGURES if any(n in row.measures for row in rows)]
            table = [["surface", *map(_heading, names)]]
            for row in rows:
                figures = [_cell(n, row.measures.get(n, Measure(None))) for n in names]
                table.append([row.name, *figures])
            rule = ["-" * max(map(len, column)) for column in zip(*table, strict=True)]
            blocks.append(wording.table([table[0], rule, *table[1:]]))
    label = describe(comparison.quantity).label
    shown = {n for row in comparison.rows for n in row.measures}
    meanings = [f"{_heading(n)}: {said}" for n, said in FIGURES.items() if said and n in shown]
    blocks.append("\n".join([f"flat: {label} up to {comparison.level}", *meanings]))
    several = len(comparison.rows) > 1
    notes = [f"{r.name}: {n}" if several else n for r in comparison.rows for n in r.notes]
    return "\n".join(["\n\n".join(blocks), *notes])


def _cell(name: str, measure: Measure) -> str:
    if measure.value is None:
        return "n/a"
    if name.endswith("_error"):
        return f"{100 * measure.value:.2f} %"
    if name == "minima":
        return f"{measure.value:.0f}"
    shown = f"{measure.value:.3g}"
    if measure.spread is not None:
        shown += " [{:.3g}, {:.3g}]".format(*measure.spread)
    return f">= {shown}" if measure.is_bound else shown


def as_dict(comparison: Comparison) -> dict[str, Any]:
    """Return the comparison as plain values for JSON; what is not known is null."""
    return {
        "quantity": comparison.quantity,
        "level": str(comparison.level),
        "surfaces": [
            {
                "name": row.name,
                "source": row.source,
                **dict.fromkeys(("train_loss", "test_error")),
                **{n: m.value for n, m in row.measures.items()},
                "lower_bounds": [n for n, m in row.measures.items() if m.is_bound],
                "quartiles": {n: m.spread for n, m in row.measures.items() if m.spread},
                "notes": list(row.notes),
            }
            for row in comparison.rows
        ],
    }


def csv_text(comparison: Comparison) -> str:
    """Return the comparison as CSV: full precision, one row per surface, bounds in a column."""
    measures = [row.measures for row in comparison.rows]
    names = [n for n in FIGURES if any(n in figures for figures in measures)]
    spread = [n for n in names if any(n in f and f[n].spread for f in measures)]
    header = ["name", "source", "quantity", *names]
    header += [f"{n}_q{q}" for n in spread for q in (25, 75)]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*header, "lower_bounds", "notes"])
    for row in comparison.rows:
        figures = {n: row.measures.get(n, Measure(None)) for n in names}
        values = [figures[n].value for n in names]
        quartiles = [q for n in spread for q in figures[n].spread or (None, None)]
        bounds = " ".join(n for n, m in row.measures.items() if m.is_bound)
        fields: Iterable[object] = (row.name, row.source, comparison.quantity, *values, *quartiles)
        writer.writerow(["" if f is None else f for f in fields] + [bounds, "; ".join(row.notes)])
    return buffer.getvalue()
