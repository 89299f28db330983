"""How flat a surface is around its centre, as numbers; `docs/COMPARE.md` defines each.

Pure arithmetic on cells that have a finite result: what they do not decide is a lower bound
or not known, with the reason, and never a guess.

Shape suffixes: B betas, A alphas, N points, T triangles, K rays.
"""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import KW_ONLY, dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RegularGridInterpolator
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import ConvexHull, QhullError

from lsengine.errors import UsageError
from lsengine.surface.cells import Floats, Mask, corners

REACH = 2  # cells on each side of the centre that the quadratic is fitted to
RAYS = 181  # odd, so that the median is one of them
AT_ZERO = 1e-9
NO_CENTRE = "no finite cell at the centre"


@dataclass(frozen=True, slots=True)
class Measure:
    """One number about one surface."""

    value: float | None  # None if it is not known
    _: KW_ONLY
    is_bound: bool = False  # whether the truth is ``value`` or more
    spread: tuple[float, float] | None = None  # first and third quartile over repeats
    why: str = ""  # it is not known, or only a bound

    def known(self) -> Measure:
        """Return the measure, as not known if its arithmetic has overflowed."""
        numbers = (self.value, *(self.spread or ()))
        if all(number is None or math.isfinite(number) for number in numbers):
            return self
        return Measure(None, why="values are too large for arithmetic")


@dataclass(frozen=True, slots=True)
class Level:
    """The loss up to which a surface counts as flat."""

    kind: str = "+"  # + (above the centre's loss), x (times it) or = (the same for all)
    amount: float = 0.1

    @classmethod
    def parse(cls, text: str) -> Level:
        """Read ``+0.1``, ``x2`` or ``0.5``.

        Raises:
            UsageError: If it is none of these.
        """
        number = r"(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?"
        match = re.fullmatch(rf"([+x=]?)\s*({number})", text.strip(), re.IGNORECASE | re.ASCII)
        kind, amount = (match[1].lower() or "=", float(match[2])) if match else ("", 0.0)
        if amount <= 0 or (kind == "x" and amount <= 1):
            raise UsageError(
                f"--level: got {text!r}; expected +0.1 (above the loss at the centre), x2 (times "
                "it, more than 1) or 0.5 (the same loss for all surfaces)"
            )
        return cls(kind, amount)

    def above(self, centre: float | None) -> Measure:
        """Return the loss that is meant, given the loss at the centre."""
        if self.kind == "=":
            return Measure(self.amount)
        if centre is None:
            return Measure(None, why=NO_CENTRE)
        if self.kind == "+":
            return Measure(centre + self.amount)
        if centre <= 0:
            return Measure(None, why=f"{self.amount:g} times a loss of {centre:.3g} is no rise")
        return Measure(centre * self.amount)

    def __str__(self) -> str:
        """Return the level in words."""
        words = {"+": "the centre's + {:g}", "x": "{:g} times the centre's", "=": "{:g}"}
        return words[self.kind].format(self.amount)


@dataclass(frozen=True, kw_only=True)
class PiecewisePlane:
    """A plane as linear pieces: each quad of four finite cells is four triangles."""

    alpha: Floats  # increasing; (A,)
    beta: Floats  # increasing; (B,)
    values: Floats  # NaN where there is no finite result; (B, A)
    has_gaps: bool = False  # whether cells are missing that might lie below any level

    @cached_property
    def centre(self) -> tuple[int, int] | None:
        """Row and column of the cell at alpha = beta = 0, if it has a value."""
        at = [int(np.abs(axis).argmin()) for axis in (self.beta, self.alpha)]
        is_zero = max(abs(self.beta[at[0]]), abs(self.alpha[at[1]])) < AT_ZERO
        known = is_zero and np.isfinite(self.values[at[0], at[1]])
        return (at[0], at[1]) if known else None

    @property
    def centre_value(self) -> float | None:
        """The value at the centre."""
        return None if self.centre is None else float(self.values[self.centre])

    @cached_property
    def mesh(self) -> tuple[Floats, Floats, NDArray[np.intp]]:
        """Points (N, 2), their values (N,), and triangles by points (T, 3)."""
        rows, columns = self.values.shape
        squares = corners(np.arange(rows * columns).reshape(rows, columns)).reshape(-1, 4)
        flat, (x, y) = self.values.ravel(), np.meshgrid(self.alpha, self.beta)
        points = np.stack([x.ravel(), y.ravel()], -1)
        quads = squares[np.isfinite(flat[squares]).all(axis=1)]
        middle = flat.size + np.arange(len(quads))
        triangles = [np.stack([quads[:, i], quads[:, i - 3], middle], -1) for i in range(4)]
        return (
            np.concatenate([points, points[quads].mean(axis=1)]),
            np.concatenate([flat, flat[quads].mean(axis=1)]),
            np.concatenate(triangles),
        )

    @cached_property
    def edges(self) -> tuple[NDArray[np.intp], Mask]:
        """Edges by points (E, 2), and which of them end the known part of the plane."""
        _, _, triangles = self.mesh
        sides = np.sort(triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
        edges, counts = np.unique(sides, axis=0, return_counts=True)
        return edges, counts == 1

    def area(self, level: float) -> Measure:
        """Return the area of the known plane in which the loss is at most ``level``."""
        points, values, triangles = self.mesh
        if not len(triangles):
            return Measure(None, why=_NO_QUAD)
        edges, is_end = self.edges
        area = float(_areas_below(points, values, triangles, level).sum())
        if self.has_gaps:
            return Measure(area, is_bound=True, why="cells are missing")
        leaves = bool((values[edges[is_end]] <= level).any())
        return Measure(area, is_bound=leaves, why=_LEAVES if leaves else "")

    def basin(self, level: float) -> tuple[Measure, Measure]:
        """Return area, and area by that of the convex hull, of the centre's own basin.

        The basin is the connected part of the plane around the centre with a loss of at most
        ``level``.
        """
        points, values, triangles = self.mesh
        if refusal := self._refusal(level) or ("" if len(triangles) else _NO_QUAD):
            return Measure(None, why=refusal), Measure(None, why=refusal)
        edges, is_end = self.edges
        inside = self._connected(level)
        mine = triangles[inside[triangles].any(axis=1)]
        area = float(_areas_below(points, values, mine, level).sum())
        if inside[edges[is_end]].any():
            return Measure(area, is_bound=True, why=_LEAVES), Measure(None, why=_LEAVES)
        leaving = edges[inside[edges].sum(axis=1) == 1]
        flipped = ~inside[leaving[:, 0]]
        leaving[flipped] = leaving[flipped][:, ::-1]
        low, high = values[leaving].T
        share = ((level - low) / (high - low))[:, None]
        start, stop = points[leaving[:, 0]], points[leaving[:, 1]]
        outline = np.concatenate([points[inside], start + share * (stop - start)])
        try:
            hull = float(ConvexHull(outline).volume)
        except (QhullError, ValueError):
            hull = 0.0
        convexity = Measure(area / hull) if hull > 0 else Measure(None, why="the basin has no area")
        return Measure(area), convexity

    def cells_below(self, level: float) -> int:
        """Return how many cells the centre's basin has."""
        return int(self._connected(level)[: self.values.size].sum())

    def reach(self, level: float) -> tuple[float, float]:
        """Return up to which alpha and beta the basin goes: its farthest cell's, and a step."""
        points, _, _ = self.mesh
        steps = [float(np.diff(axis).max(initial=0.0)) for axis in (self.alpha, self.beta)]
        alpha, beta = np.abs(points[self._connected(level)]).max(axis=0) + steps
        return float(alpha), float(beta)

    def radius(self, level: float) -> Measure:
        """Return the median distance from the centre at which the loss passes ``level``."""
        is_narrow = min(self.values.shape) < 2
        if refusal := self._refusal(level) or ("the plane is one cell wide" if is_narrow else ""):
            return Measure(None, why=refusal)
        at_K, passed_K = self._along_rays(level)
        middle = float(np.median(at_K))
        # A ray that ends early may be as long as it likes beyond the median, not before it.
        is_bound = bool((at_K[~passed_K] < middle).any()) or not passed_K.any()
        is_bound |= not passed_K[int(np.argsort(at_K, kind="stable")[RAYS // 2])]
        return Measure(middle, is_bound=is_bound, why=_LEAVES if is_bound else "")

    def curvatures(self) -> tuple[Measure, Measure]:
        """Return the principal curvatures, greatest first, of a quadratic fitted at the centre."""
        if self.centre is None:
            return Measure(None, why=NO_CENTRE), Measure(None, why=NO_CENTRE)
        row, column = self.centre
        rows = slice(max(row - REACH, 0), row + REACH + 1)
        columns = slice(max(column - REACH, 0), column + REACH + 1)
        x, y = np.meshgrid(self.alpha[columns], self.beta[rows])
        z = self.values[rows, columns]
        good = np.isfinite(z)
        x, y, z = x[good], y[good], z[good]
        terms = np.stack([np.ones_like(x), x, y, x**2 / 2, x * y, y**2 / 2], -1)
        fit = _least_squares(terms, z)
        if fit is None:
            why = f"{good.sum()} finite cells around the centre do not fix a quadratic"
            return Measure(None, why=why), Measure(None, why=why)
        low, high = np.linalg.eigvalsh([[fit[3], fit[4]], [fit[4], fit[5]]])
        return Measure(float(high)), Measure(float(low))

    def minima(self) -> Measure:
        """Return how many cells lie below all their eight neighbours."""
        if self.has_gaps:
            return Measure(None, why="cells are missing")
        if min(self.values.shape) < 3:
            return Measure(None, why="no cell has eight neighbours")
        v = self.values
        rows, columns = v.shape
        lower = np.ones((rows - 2, columns - 2), bool)
        for b, a in itertools.product(range(3), repeat=2):
            if (b, a) != (1, 1):  # a comparison with NaN is false
                lower &= v[1:-1, 1:-1] < v[b : rows - 2 + b, a : columns - 2 + a]
        return Measure(float(lower.sum()))

    def _refusal(self, level: float) -> str:
        if (value := self.centre_value) is None:
            return NO_CENTRE
        return "" if value <= level else _TOO_HIGH.format(value)

    def _connected(self, level: float) -> Mask:
        """Return the points at most ``level`` high that such points link to the centre; (N,)."""
        assert self.centre is not None
        _, values, _ = self.mesh
        edges, _ = self.edges
        below = values <= level
        links = edges[below[edges].all(axis=1)]
        ones = np.ones(len(links), bool)
        graph = coo_array((ones, (links[:, 0], links[:, 1])), shape=(len(values),) * 2)
        _, component = connected_components(graph, directed=False)
        centre = int(np.ravel_multi_index(self.centre, self.values.shape))
        return np.asarray(below & (component == component[centre]))

    def _along_rays(self, level: float) -> tuple[Floats, Mask]:
        """Return how far each ray gets (K,) and whether it ends by passing the level (K,)."""
        angle = 2 * np.pi * np.arange(RAYS) / RAYS
        step = np.stack([np.sin(angle), np.cos(angle)], -1)  # beta, alpha
        end_K = np.full(RAYS, np.inf)
        for i, axis in enumerate((self.beta, self.alpha)):
            moves = step[:, i] != 0  # a ray along the other axis never meets this one's ends
            end = np.where(step[moves, i] > 0, axis[-1], axis[0])
            end_K[moves] = np.minimum(end_K[moves], np.abs(end / step[moves, i]))
        finest = min(float(np.diff(axis).min()) for axis in (self.beta, self.alpha))
        count = int(np.clip(4 * end_K.max() / finest, 16, 4096))
        share = np.linspace(0.0, 1.0 - 1e-12, count + 1)
        at = end_K[:, None, None] * share[None, :, None] * step[:, None, :]
        ground = RegularGridInterpolator(
            (self.beta, self.alpha), self.values, bounds_error=False, fill_value=np.nan
        )
        heights = ground(at)
        heights[:, 0] = self.values[self.centre]
        stops = ~(heights <= level)  # NaN stops a ray, too
        first = np.where(stops.any(axis=1), stops.argmax(axis=1), count)
        k = np.arange(RAYS)
        stop, before = heights[k, first], heights[k, first - 1]
        passed = stop > level
        rise = np.where(passed, stop - before, 1.0)
        step_share = np.where(passed, (level - before) / rise, 0.0)
        reached = np.where(passed, share[first - 1] + step_share * share[1], share[first])
        reached = np.where(np.isnan(stop), share[first - 1], reached)
        return end_K * reached, passed


_NO_QUAD = "no four neighbouring cells are finite"
_LEAVES = "reaches the end of the finite cells"
_TOO_HIGH = "the centre's own loss, {:.4g}, is above the level"


def _areas_below(
    points: Floats, values: Floats, triangles: NDArray[np.intp], level: float
) -> Floats:
    """Return the area of each triangle in which the linear function is at most ``level``."""
    corner = points[triangles]
    (ux, uy), (vx, vy) = (corner[:, 1] - corner[:, 0]).T, (corner[:, 2] - corner[:, 0]).T
    area = 0.5 * np.abs(ux * vy - uy * vx)
    low, middle, high = np.sort(values[triangles], axis=1).T
    with np.errstate(divide="ignore", invalid="ignore"):
        little = (level - low) ** 2 / ((middle - low) * (high - low))
        much = 1.0 - (high - level) ** 2 / ((high - low) * (high - middle))
    share = np.select([level >= high, level >= middle, level > low], [1.0, much, little], 0.0)
    return np.asarray(area * share)


def _least_squares(terms: Floats, z: Floats) -> Floats | None:
    """Return the coefficients, or None if the points do not fix them."""
    scale = np.abs(terms).max(axis=0, initial=0.0)
    if len(z) < terms.shape[1] or not (scale > 0).all():
        return None
    fit, _, rank, _ = np.linalg.lstsq(terms / scale, z, rcond=1e-10)
    return np.asarray(fit / scale) if rank == terms.shape[1] else None


def curve_centre(alpha: Floats, values: Floats) -> int | None:
    """Return the index of the cell at alpha = 0, if it has a value."""
    at = int(np.abs(alpha).argmin())
    return at if abs(alpha[at]) < AT_ZERO and np.isfinite(values[at]) else None


def width(alpha: Floats, values: Floats, level: float) -> Measure:
    """Return the length around the centre on which a curve is at most ``level``.

    ``alpha`` increases; ``values`` are NaN where there is no finite result; both (A,).
    """
    centre = curve_centre(alpha, values)
    if centre is None:
        return Measure(None, why=NO_CENTRE)
    if values[centre] > level:
        return Measure(None, why=_TOO_HIGH.format(values[centre]))
    total, is_bound = 0.0, False
    for x, y in ((alpha[centre:], values[centre:]), (-alpha[centre::-1], values[centre::-1])):
        stops = np.flatnonzero(~(y <= level))
        first = int(stops[0]) if stops.size else len(y)
        if first == len(y) or np.isnan(y[first]):
            total, is_bound = total + float(x[first - 1]), True
        else:
            share = (level - y[first - 1]) / (y[first] - y[first - 1])
            total += float(x[first - 1] + share * (x[first] - x[first - 1]))
    return Measure(total, is_bound=is_bound, why=_LEAVES if is_bound else "")


def curvature(alpha: Floats, values: Floats) -> Measure:
    """Return the second derivative of a quadratic fitted to a curve around its centre."""
    centre = curve_centre(alpha, values)
    if centre is None:
        return Measure(None, why=NO_CENTRE)
    near = slice(max(centre - REACH, 0), centre + REACH + 1)
    good = np.isfinite(values[near])
    x, z = alpha[near][good], values[near][good]
    fit = _least_squares(np.stack([np.ones_like(x), x, x**2 / 2], -1), z)
    if fit is None:
        return Measure(None, why=f"{good.sum()} finite cells around the centre fix no quadratic")
    return Measure(float(fit[2]))


def over_repeats(measures: list[Measure]) -> Measure:
    """Return the median and quartiles of one figure over repeats; alone it stays as it is."""
    known = [m for m in measures if m.value is not None]
    if len(measures) == 1 or not known:
        return measures[0]
    values = np.array([m.value for m in known])
    low, middle, high = (float(q) for q in np.quantile(values, (0.25, 0.5, 0.75)))
    bounds = np.array([m.is_bound for m in known])
    is_bound = bool((values[bounds] <= middle).any())
    why = next((m.why for m in known if m.is_bound), "") if is_bound else ""
    if len(known) < len(measures):
        why = f"from {len(known)} of {len(measures)} repeats"
    return Measure(middle, is_bound=is_bound, spread=(low, high), why=why)
