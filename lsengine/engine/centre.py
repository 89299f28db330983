"""The centre before the first cell: what a job expects of it, and what a surface has of it.

A data set, a normalisation or a checkpoint that is not the one meant shows in a loss that
somebody has noted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path

import numpy as np
from torch import nn

from lsengine import store
from lsengine.curvature import cells
from lsengine.data import Dataset
from lsengine.engine.prepare.checks import undefined_number
from lsengine.errors import SurfaceError, UsageError
from lsengine.job import Job
from lsengine.objective import Objective
from lsengine.surface.grid import Cell
from lsengine.surface.identity import tolerance
from lsengine.wording import did_you_mean, listed

_MOST = 0.01  # of a value, which its digits may leave open


def refuse_unknown(job: Job, names: Sequence[str]) -> None:
    """Refuse an expectation of what no cell has; ``names`` are the quantities of the cells.

    Raises:
        UsageError: With what there is.
    """
    for name in job.document.expect:
        if name not in names:
            raise UsageError(
                f"expect.{name}: the cells have no such quantity; there are: {listed(names)}"
                f"{did_you_mean(name, names)}"
            )


def compare(job: Job, found: Mapping[str, float], precision: str) -> None:
    """Compare what is found at the centre with what the job expects of it, as far as both know.

    Raises:
        UsageError: With all that differs: what is expected, how far it may be off, what is found.
    """
    wrong = []
    for name in job.document.expect:
        if name not in found:
            continue
        value, allowed = expected(job, name, precision)
        if not abs(found[name] - value) <= allowed:
            wrong.append(f"{name} is {found[name]:.6g}, not {value:.6g} within {allowed:.2g}")
    if wrong:
        raise UsageError(
            f"expect: at the centre {listed(wrong)}; are checkpoint, data and normalisation the "
            "ones that the numbers are of? nothing is evaluated; correct the job, or what it "
            "expects: NAME: [value, tolerance] allows more"
        )


def expected(job: Job, name: str, precision: str) -> tuple[float, float]:
    """Return the value that a job expects of a quantity, and how far it may be off.

    That is what the job says, or half a unit of the last digit other than 0 that it has written,
    but 1 % of the value at most, and at least the tolerance of the precision (of eigenvalues that
    of the section curvature).
    """
    given = job.document.expect[name]
    if isinstance(given, list):
        return given[0], given[1]
    exponent = Decimal(repr(given)).normalize().as_tuple().exponent
    assert isinstance(exponent, int)  # a finite number
    least = tolerance(precision)
    if name in cells.NAMES:
        least = max(least, job.document.curvature.tolerance)
    return given, max(min(0.5 * 10.0**exponent, _MOST * abs(given)), least * abs(given))


def refuse_other_centre(
    surface: Path, found: Mapping[str, float], stored: Mapping[str, float], precision: str
) -> None:
    """Refuse to go on with a surface whose centre has other losses than are found now.

    ``stored`` is what the surface has of its centre; losses are compared where both are finite,
    to the tolerance of the precision.

    Raises:
        SurfaceError: Naming the first loss that differs.
    """
    for name, before in stored.items():
        now = found.get(name, math.nan)
        if not name.endswith("_loss") or not (math.isfinite(before) and math.isfinite(now)):
            continue
        if abs(now - before) > tolerance(precision) * max(abs(before), abs(now)) + 1e-7:
            raise SurfaceError(
                f"{surface}: the centre's {name} is {now:.6g} now, and {before:.6g} in the file; "
                "network, data or a library are not what they were: give the job another output, "
                "or undo the change"
            )


def stored_at_centre(surface: Path) -> dict[str, float]:
    """Return what a surface file has of the cell at its centre; nothing if that is not done."""
    grid = store.read_grid(surface)
    places = [np.flatnonzero(np.abs(axis) < 1e-9)[:1] for axis in grid.axes.values()]
    if not all(place.size for place in places) or not store.read_status(surface).any():
        return {}
    read, at = store.read(surface), tuple(int(place[0]) for place in places)
    return {n: float(v[at]) for n, v in read.quantities.items()} if read.done[at] else {}


def why_undefined(objective: Objective, model: nn.Module, dataset: Dataset, precision: str) -> str:
    """Return why a loss of the centre is NaN, as far as it is found.

    ``model`` has the numbers of the centre.  Every sample is evaluated once more.
    """
    if name := undefined_number(model):
        return f"{name} of the checkpoint holds NaN or infinite numbers"
    if precision not in ("float32", "float64"):
        exact = objective.exact_losses(Cell(0.0))
        if not any(math.isnan(v) for n, v in exact.items() if n.endswith("_loss")):
            return f"{precision} overflows, in float32 they are numbers; use precision: float32"
    samples = {split: list(range(len(part))) for split, part in dataset.splits.items()}
    found = objective.values_of_samples(samples, Cell(0.0))
    bad = {split: np.flatnonzero(np.isnan(values[0].numpy())) for split, values in found.items()}
    counts = [
        f"{len(where)} of {len(samples[split])} {split} samples, the first at index {where[0]}"
        for split, where in bad.items()
        if len(where) and len(samples[split]) == len(found[split][0])
    ]
    of = f"of {listed(counts)}" if counts else "of a whole split"
    return f"all parameters are numbers, the loss {of} is not: it overflows, or an output does"
