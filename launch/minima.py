"""The eight minima of `launch/studies.sh sharp_flat`: one table, one figure, and their planes.

Joins what `lsengine compare --csv` wrote (raw.csv, filter.csv, plane.csv in FIGURES) with the
norms of the weights in the histories (CHECKPOINTS) and how the loss rises beyond the ends of the
lines (SURFACES) into TABLE, prints it as Markdown with the correlations, and draws the training
loss along lines and in planes:

    python launch/minima.py FIGURES SURFACES CHECKPOINTS TABLE.csv
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from scipy.stats import spearmanr

import lsengine
from lsengine import render
from lsengine.render.style import ORDER

FIGURES = {
    "train_loss": "training loss",
    "test_error": "test error",
    "weight_norm": "length of the weights",
    "line_rise": "rise beyond the end of the line",
    "raw_width": "raw width",
    "filter_width": "filter-normalised width",
    "basin": "area of the basin",
}
"""Columns of the table and their headings."""

MINIMA = [
    f"{o}-{d}-{b}" for o in ("sgd", "adam") for d in ("wd0", "wd5e-3") for b in ("bs8", "bs300")
]
COLORS = {"bs8": ORDER[0], "bs300": ORDER[1]}
DASHES = {"wd0": "-", "wd5e-3": (0, (4, 1.5))}
Row = dict[str, str]


def rows(
    folder: Path, norms: Mapping[str, float], lines: Mapping[str, Mapping[str, float]]
) -> list[Row]:
    """Return one row per minimum, with all figures as text: bounds have a ``>=``.

    Args:
        folder: Where the tables are.
        norms: Of the weights, by minimum.
        lines: How the loss rises beyond the ends of every line, by its name and the batch.
    """
    tables = {kind: _by_name(folder / f"{kind}.csv") for kind in ("raw", "filter", "plane")}
    made = []
    for name, norm in norms.items():
        line, _, batch = name.rpartition("-")
        row = {"minimum": name, "weight_norm": f"{norm:.3g}"}
        row |= {key: tables["filter"][name][key] for key in ("train_loss", "test_error")}
        row["line_rise"] = f"{lines[line][batch]:.2g}"
        row["raw_width"] = _figure(tables["raw"][name], "width")
        row["filter_width"] = _figure(tables["filter"][name], "width")
        row["basin"] = _figure(tables["plane"][name], "basin")
        made.append({"minimum": name} | {key: row[key] for key in FIGURES})
    return made


def read(path: Path) -> list[Row]:
    """Return the rows of a CSV file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _by_name(path: Path) -> dict[str, Row]:
    return {row["name"]: row for row in read(path)}


def _figure(row: Row, key: str) -> str:
    """Return a figure to three digits, with its bound, and a star if few cells decided."""
    if not row[key]:
        return ""
    bound = ">= " if key in row["lower_bounds"].split() else ""
    few = "*" if key == "basin" and "in the basin" in row["notes"] else ""
    return f"{bound}{float(row[key]):.3g}{few}"


def _number(text: str) -> float:
    return float(text.removeprefix(">= ").removesuffix("*") or "nan")


def write(table: Sequence[Row], path: Path) -> None:
    """Write the table as CSV."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, table[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)


def correlations(table: Sequence[Row]) -> dict[str, float]:
    """Return Spearman's correlation of each column with the test error; a bound counts as met."""
    errors = [_number(row["test_error"]) for row in table]
    return {
        key: float(spearmanr([_number(row[key]) for row in table], errors).statistic)
        for key in FIGURES
        if key not in ("train_loss", "test_error")
    }


def markdown(table: Sequence[Row]) -> str:
    """Return the table with the correlations below, as the documents show it."""
    lines = [["minimum", *FIGURES.values()], ["---"] * (len(FIGURES) + 1)]
    for row in table:
        shown = row | {
            "train_loss": f"{float(row['train_loss']):.2g}",
            "test_error": f"{100 * float(row['test_error']):.2f} %",
        }
        lines.append(list(shown.values()))
    found = correlations(table)
    last = [f"{found[key]:+.2f}" if key in found else "" for key in FIGURES]
    lines.append(["*Spearman's correlation with the test error*", *last])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def curves(surfaces: Path) -> Figure:
    """Draw the training loss of all minima: on the line between two, raw and filter-normalised."""
    titles = {
        "interpolation": "line: batch 8 at 0, batch 300 at 1",
        "raw": "raw direction",
        "filter": "filter-normalised direction",
    }
    figure = Figure(figsize=(9.0, 5.4), layout="constrained")
    panels = figure.subplots(2, 3, sharex="col", sharey=True)
    for optimizer, row in zip(("sgd", "adam"), panels, strict=True):
        for kind, axes in zip(titles, row, strict=True):
            for decay, dashes in DASHES.items():
                batches = COLORS if kind != "interpolation" else {"": "black"}
                for batch, color in batches.items():
                    name = "-".join(part for part in (kind, optimizer, decay, batch) if part)
                    surface = lsengine.open(surfaces / f"{name}.h5")
                    loss = surface.masked("train_loss")
                    axes.plot(surface.alpha, loss, color=color, linestyle=dashes, linewidth=1.4)
            axes.set(yscale="log")
            axes.margins(x=0)
            axes.grid(True, linewidth=0.4, alpha=0.4)
            axes.label_outer()
        row[0].set_ylabel(
            f"{optimizer.replace('sgd', 'SGD').replace('adam', 'Adam')}: training loss"
        )
    for title, axes, below in zip(titles.values(), panels[0], panels[1], strict=True):
        axes.set_title(title, fontsize="medium")
        below.set_xlabel(r"$\alpha$")
    handles = [
        axes.plot([], [], color=c, label=b.replace("bs", "batch "))[0] for b, c in COLORS.items()
    ]
    handles += [
        axes.plot([], [], color="black", linestyle=d, label=w.replace("wd", "weight decay "))[0]
        for w, d in DASHES.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    return figure


def rises(alpha: ArrayLike, loss: ArrayLike) -> tuple[float, float, float]:
    """Return by how much the loss rises beyond both ends of a line, at 0 and 1.

    On the line itself the minima share what is between them; outwards each is for itself.  Half
    a line beyond, running variances that move along may be negative, and the loss not finite:
    then it is the farthest step at which both losses are finite.

    Returns:
        The step, and the rises beyond 0 and 1; NaN if there is no such step.
    """
    steps, losses = np.asarray(alpha, dtype=np.float64), np.asarray(loss, dtype=np.float64)

    def at(step: float) -> float:
        return float(losses[np.abs(steps - step).argmin()])

    for step in np.sort(-steps[(steps < -1e-9) & (steps > -0.5 - 1e-9)])[::-1]:
        found = at(-step) - at(0.0), at(1.0 + step) - at(1.0)
        if np.isfinite(found).all():
            return float(step), *found
    return (float("nan"),) * 3


def main(figures: Path, surfaces: Path, checkpoints: Path, csv_file: Path) -> None:
    """Write the table, minima and planes as .png and .pdf; print the table."""
    with h5py.File(surfaces / "weights.h5") as file:  # without biases and normalisation
        weights = file["weights/parameter"][:]
    norms = {}
    for name in MINIMA:
        with h5py.File(checkpoints / name / "history.h5") as file:
            is_weight = np.isin(file["parameter"][:], weights)
            norms[name] = float(np.linalg.norm(file["layer_norm"][-1][is_weight]))
    lines = {}
    for name in dict.fromkeys(name.rpartition("-")[0] for name in MINIMA):
        line = lsengine.open(surfaces / f"interpolation-{name}.h5")
        _, small, large = rises(line.alpha, line.masked("train_loss"))
        lines[name] = {"bs8": small, "bs300": large}
    table = rows(figures, norms, lines)
    write(table, csv_file)
    print(markdown(table), end="")
    drawn = curves(surfaces)
    named = [
        lsengine.open(surfaces / f"plane-{row['minimum']}.h5").renamed(
            f"{row['minimum']} ({100 * float(row['test_error']):.2f} %)"
        )
        for row in table
    ]
    for ending in ("png", "pdf"):
        drawn.savefig(figures / f"minima.{ending}", dpi=200)
        render.write(named, figures / f"planes.{ending}", kind="contour")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
