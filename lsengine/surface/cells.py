"""The cells of one surface, sorted into what can be drawn and what cannot, and why.

Shape suffixes: B betas, A alphas.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsengine.errors import UsageError
from lsengine.surface.quantities import Quantity
from lsengine.surface.surface import DONE, FAILED, MISSING, Surface

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
LARGEST = 1e140  # of what is drawn: squares of far larger numbers overflow
PATCHY = 0.6  # a grid whose cells join up to less than this share of a coarser one is patchy


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """How many cells there are, and how many cannot be drawn for which reason."""

    cells: int
    missing: int
    failed: int
    nan: int
    infinite: int

    @property
    def bad(self) -> int:
        """Cells that were computed, or tried, and have no finite value."""
        return self.failed + self.nan + self.infinite

    def bad_text(self) -> str:
        """Return ``3 NaN, 2 infinite, 1 failed``, naming only what there is."""
        parts = ((self.nan, "NaN"), (self.infinite, "infinite"), (self.failed, "failed"))
        return ", ".join(f"{count:,} {word}" for count, word in parts if count)

    def reasons(self) -> str:
        """Return ``5 missing, 3 NaN of 9 cells``: why there is nothing to draw."""
        missing = f"{self.missing:,} missing" if self.missing else ""
        words = ", ".join(filter(None, (missing, self.bad_text())))
        return f"{words or 'none'} of {self.cells:,} cells"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    """One quantity of one surface over two directions, in the unit drawn.

    Attributes:
        alpha: Increasing; (A,).
        beta: Increasing; (B,).
        values: NaN wherever there is no finite result; (B, A).
        missing: Cells not computed yet; (B, A).
        bad: Cells that failed or are not finite; (B, A).
        tally: Of the whole grid, also in a coarser cut of it.
        whole: Alpha and beta of the whole grid.
        coarse: Empty, or which part of the grid this is a cut of.
    """

    alpha: Floats
    beta: Floats
    values: Floats
    missing: Mask
    bad: Mask
    tally: Tally
    whole: tuple[Floats, Floats]
    coarse: str = ""

    @property
    def filled(self) -> Floats:
        """Values, with that of the nearest cell where one is not computed yet; (B, A).

        Raises:
            ValueError: If no cell has a value.
        """
        return np.where(self.missing, nearest(self.alpha, self.beta, self.values), self.values)

    @property
    def finite(self) -> Floats:
        """All finite values; (N,)."""
        return self.values[np.isfinite(self.values)]

    @property
    def joins(self) -> bool:
        """Whether three corners of any square of four cells have values."""
        return bool((corners(np.isfinite(self.values)).sum(axis=-1) >= 3).any())

    @property
    def has_square(self) -> bool:
        """Whether all corners of any square of four cells have values."""
        return bool(corners(np.isfinite(self.values)).all(axis=-1).any())

    def best(self, end: str) -> tuple[float, float, float] | None:
        """Return alpha, beta and value of the lowest or highest cell, nearest the centre."""
        if not end or not self.finite.size:
            return None
        value = self.finite.min() if end == "low" else self.finite.max()
        far = np.hypot(*np.meshgrid(self.alpha, self.beta))
        far[self.values != value] = np.inf
        row, column = np.unravel_index(int(far.argmin()), far.shape)
        return float(self.alpha[column]), float(self.beta[row]), float(value)


def drawable(values: Floats) -> Floats:
    """Return values with those of a size beyond `LARGEST` put at that size.

    Those smaller than its inverse are 0.
    """
    size = np.where(np.isfinite(values), np.abs(values), 0.0)
    if not ((size > LARGEST) | ((size < 1 / LARGEST) & (size > 0))).any():
        return values
    near = np.where(size < 1 / LARGEST, 0.0, np.clip(values, -LARGEST, LARGEST))
    return np.where(np.isfinite(values), near, values)


def tally(status: NDArray[np.uint8], arrays: Iterable[NDArray[Any]]) -> Tally:
    """Count cells by what keeps them from being drawn; one array that is not finite is enough."""
    done, columns = status == DONE, list(arrays)
    nan = done & np.any([np.isnan(values) for values in columns], axis=0)
    infinite = done & np.any([np.isinf(values) for values in columns], axis=0)
    return Tally(
        cells=status.size,
        missing=int((status == MISSING).sum()),
        failed=int((status == FAILED).sum()),
        nan=int((nan & ~infinite).sum()),
        infinite=int(infinite.sum()),
    )


def plane(surface: Surface, quantity: Quantity) -> Plane:
    """Sort the cells of a two-dimensional surface.

    Raises:
        UsageError: If two coordinates of an axis are equal or not finite.
    """
    for name in ("beta", "alpha"):
        axis = np.asarray(surface.axes[name], dtype=np.float64)
        if not np.isfinite(axis).all() or (np.diff(np.sort(axis)) <= 0).any():
            raise UsageError(
                f"{surface.source}: the {name} coordinates are not {axis.size} different "
                "finite numbers, so there is no plane to draw; check the job's grid"
            )
    cut = np.ix_(np.argsort(surface.axes["beta"]), np.argsort(surface.axes["alpha"]))
    values_BA = np.asarray(surface.quantities[quantity.name], dtype=np.float64)[cut]
    status_BA, missing_BA = surface.status[cut], surface.status[cut] == MISSING
    good_BA = (status_BA == DONE) & np.isfinite(values_BA)
    alpha, beta = (np.sort(np.asarray(surface.axes[n], np.float64)) for n in ("alpha", "beta"))
    return Plane(
        alpha=alpha,
        beta=beta,
        values=np.where(good_BA, values_BA, np.nan) * quantity.factor,
        missing=missing_BA,
        bad=~good_BA & ~missing_BA,
        tally=tally(status_BA, [values_BA]),
        whole=(alpha, beta),
    )


@dataclass(frozen=True, slots=True)
class Line:
    """One quantity of one surface along alpha, in the unit drawn; of repeats one row each.

    Alpha (A,) increases; values (R, A) are NaN wherever there is no finite result.
    """

    alpha: Floats
    values: Floats
    status: NDArray[np.uint8]


def line(surface: Surface, quantity: Quantity) -> Line:
    """Sort the cells of a surface with one direction along it."""
    order = np.argsort(surface.axes["alpha"])
    status_RA = np.atleast_2d(surface.status)[:, order]
    values_RA = np.atleast_2d(np.asarray(surface.quantities[quantity.name], np.float64))[:, order]
    is_good = (status_RA == DONE) & np.isfinite(values_RA)
    return Line(
        alpha=np.asarray(surface.axes["alpha"], np.float64)[order],
        values=np.where(is_good, values_RA, np.nan) * quantity.factor,
        status=status_RA,
    )


def joined(whole: Plane) -> Plane:
    """Return what contours should be drawn of: the plane, or a coarser complete cut of it.

    A run goes from coarse to fine, so a partial grid holds every second or fourth row and
    column completely.  Between scattered cells there is nothing to join, but those rows and
    columns alone show the whole shape.
    """
    rows, columns = _complete(whole.missing)
    if not whole.missing.any() or len(rows) < 2 or len(columns) < 2:
        return whole
    cut = np.ix_(rows, columns)
    coarse_area = float(np.ptp(whole.alpha[columns]) * np.ptp(whole.beta[rows]))
    # Contours can be drawn in quads, and in half quads at a hole.
    share = np.choose(corners(~whole.missing).sum(axis=-1), (0.0, 0.0, 0.0, 0.5, 1.0))
    area = float((share * np.outer(np.diff(whole.beta), np.diff(whole.alpha))).sum())
    if area >= PATCHY * coarse_area:
        return whole
    return replace(
        whole,
        alpha=whole.alpha[columns],
        beta=whole.beta[rows],
        values=whole.values[cut],
        missing=whole.missing[cut],
        bad=whole.bad[cut],
        coarse=f"drawn from {len(columns)} \N{MULTIPLICATION SIGN} {len(rows)} complete cells",
    )


def corners(values: NDArray[Any]) -> NDArray[Any]:
    """Return the four corners (B - 1, A - 1, 4) of each square of cells (B, A), around it."""
    return np.stack((values[:-1, :-1], values[:-1, 1:], values[1:, 1:], values[1:, :-1]), axis=-1)


def nearest(x: Floats, y: Floats, z_BA: Floats) -> Floats:
    """Return heights with each unknown one replaced by that of the nearest known cell.

    Raises:
        ValueError: If none is known.
    """
    known = np.isfinite(z_BA)
    if known.all():
        return z_BA
    if not known.any():
        raise ValueError("no cell is known")
    from scipy.ndimage import distance_transform_edt  # takes as long as drawing a whole surface

    steps = [float(np.diff(a).mean()) if a.size > 1 else 1.0 for a in (y, x)]
    _, (rows, columns) = distance_transform_edt(~known, sampling=steps, return_indices=True)
    return np.asarray(z_BA[rows, columns])


def _complete(missing_BA: Mask) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return rows and columns with no missing cell where they cross, dropping the worst."""
    rows, columns = (np.arange(n) for n in missing_BA.shape)
    left = missing_BA
    while left.any():  # never of an empty array
        by_row, by_column = left.mean(axis=1), left.mean(axis=0)
        if by_row.max() >= by_column.max():
            keep = np.arange(rows.size) != int(by_row.argmax())
            rows, left = rows[keep], left[keep]
        else:
            keep = np.arange(columns.size) != int(by_column.argmax())
            columns, left = columns[keep], left[:, keep]
    return rows, columns


def edges(coordinates: Floats, other: Floats) -> Floats:
    """Return the borders of cells around ``coordinates``; (N + 1,).

    A single coordinate gets the width of a cell of the ``other`` axis, or 1.
    """
    if coordinates.size == 1:
        half = float(np.diff(other).mean()) / 2 if other.size > 1 else 0.5
        return np.array([coordinates[0] - half, coordinates[0] + half])
    middle = (coordinates[1:] + coordinates[:-1]) / 2
    first, last = 2 * coordinates[0] - middle[0], 2 * coordinates[-1] - middle[-1]
    return np.concatenate(([first], middle, [last]))


def at_place(plane_: Plane, values_BA: Floats, alpha: Floats, beta: Floats) -> Floats:
    """Return values at places (T,) between the cells, bilinearly; beyond the grid its border's.

    The grid has two rows and columns or more.
    """
    (a, u), (b, v) = (_between(*pair) for pair in ((plane_.alpha, alpha), (plane_.beta, beta)))
    low = (1 - u) * values_BA[b, a] + u * values_BA[b, a + 1]
    high = (1 - u) * values_BA[b + 1, a] + u * values_BA[b + 1, a + 1]
    return np.asarray((1 - v) * low + v * high)


def _between(axis: Floats, at: Floats) -> tuple[NDArray[np.intp], Floats]:
    """Return the cell before each place, and how far it is to the next one, 0 to 1."""
    index = np.clip(np.searchsorted(axis, at, "right") - 1, 0, axis.size - 2)
    share = (at - axis[index]) / (axis[index + 1] - axis[index])
    return index, np.clip(share, 0.0, 1.0)


def value_at(surface: Surface, name: str, alpha: float = 0.0, beta: float = 0.0) -> float | None:
    """Return a quantity of the cell at a point of the grid, if it is there, done and finite."""
    if name not in surface.quantities:
        return None
    point, is_there = {"alpha": alpha, "beta": beta}, surface.done
    places = np.meshgrid(*surface.axes.values(), indexing="ij")
    for axis, coordinates in zip(surface.axes, places, strict=True):
        is_there &= np.abs(coordinates - point.get(axis, coordinates)) < 1e-9
    values = surface.quantities[name][is_there]
    finite = values[np.isfinite(values)]
    return float(finite[0]) if finite.size else None


def error_at(surface: Surface, alpha: float = 0.0, beta: float = 0.0) -> float | None:
    """Return the test error in percent of the cell at a point, if it is there and done."""
    accuracy = value_at(surface, "test_accuracy", alpha, beta)
    return None if accuracy is None else 100.0 * (1.0 - accuracy)
