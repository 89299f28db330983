"""CSV: one row per cell, for spreadsheets and R."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from lsengine.export.output import output
from lsengine.surface import Surface


def write(surface: Surface, path: Path) -> list[Path]:
    """Write ``repeat, alpha, beta``, as far as there are, all quantities, and the status.

    Rows go along alpha first.  Numbers have all their digits; a cell without result has empty
    fields, and NaN or infinity as a result is ``nan`` or ``inf``.

    Args:
        surface: Of any shape.
        path: The file.
    """
    axes = [name for name in ("repeat", "alpha", "beta") if name in surface.axes]
    with output(path, surface) as part, part.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow([*axes, *surface.quantities, "status"])
        for cell in np.ndindex(surface.status.shape):
            at = dict(zip(surface.axes, cell, strict=True))
            coordinates = [repr(float(surface.axes[name][at[name]])) for name in axes]
            if surface.done[cell]:
                values = [repr(float(array[cell])) for array in surface.quantities.values()]
            else:
                values = [""] * len(surface.quantities)
            rows.writerow([*coordinates, *values, int(surface.status[cell])])
    return [path]
