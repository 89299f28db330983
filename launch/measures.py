"""What `launch/claims.py` measures on kept surfaces and histories: plain numbers.

Shape suffixes: B betas, A alphas, N networks, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

import lsengine
from lsengine import store
from lsengine.report.flatness import Measure
from lsengine.surface import Surface, cells
from lsengine.surface.records import History

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
RESAMPLES = 10_000
INTERVAL = (2.5, 97.5)  # percent, of a bootstrap
LEVEL = 0.1  # above the loss of a minimum: what belongs to it, as in `lsengine compare`
NOISE = 0.01  # relative: what a cell in bfloat16 may be wrong by, where a run looks


class NotRunError(Exception):
    """A file that a claim needs is not kept."""


class UndecidedError(Exception):
    """A surface does not decide a number, or the numbers do not decide a claim."""


class Kept:
    """The files of a folder, by their names without ending; each is read once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._surfaces: dict[str, Surface] = {}
        self._measures: dict[tuple[str, str], dict[str, Measure]] = {}

    @cached_property
    def names(self) -> frozenset[str]:
        """All files that are there."""
        return frozenset(path.stem for path in self.folder.glob("*.h5"))

    def path(self, name: str) -> Path:
        """Return where a file is."""
        if name not in self.names:
            raise NotRunError(name)
        return self.folder / f"{name}.h5"

    def surface(self, name: str) -> Surface:
        """Return a surface."""
        if name not in self._surfaces:
            self._surfaces[name] = lsengine.open(self.path(name))
        return self._surfaces[name]

    def history(self, name: str) -> History:
        """Return the history of the training of a network."""
        return store.read_history(self.path(f"history-{name}"))

    def error(self, name: str) -> float:
        """Return the test error at the end of a training, a fraction."""
        return float(self.history(name).columns["test_error"][-1])

    def mismatch(self, name: str, training: str) -> str:
        """Return why a surface is not around the network of a training; nothing if it may be.

        The loss at its centre has to be that at the end of the training, of all images: up to
        four standard errors, and what the arithmetic may be wrong by.
        """
        surface = self.surface(name)
        here, error = (cells.value_at(surface, q) for q in ("train_loss", "train_loss_se"))
        there = float(self.history(training).columns["train_loss"][-1])
        if here is None:
            return f"{name}: has no finite loss at the centre"
        if abs(here - there) <= 4 * (error or 0.0) + NOISE * there:
            return ""
        return (
            f"{name}: the loss at the centre is {here:.6g}, at the end of the training {there:.6g}"
        )

    def standard_error(self, name: str) -> float:
        """Return the median of the loss's standard error by the loss, over all finite losses."""
        surface = self.surface(name)
        error, loss = (surface.masked(q).filled(np.nan) for q in ("train_loss_se", "train_loss"))
        return float(np.nanmedian((error / loss)[np.isfinite(loss)]))

    def weight_norm(self, name: str) -> float:
        """Return the length of a minimum's weights, without biases and normalisation.

        A filter-normalised direction is as long as the weights that it moves.
        """
        return self.surface(f"filter-{name}").direction_sizes["alpha"].length

    def figure(self, name: str, figure: str, level: str = "+0.1") -> Measure:
        """Return a figure of `lsengine compare`: a number or a lower bound of it."""
        key = (name, level)
        if key not in self._measures:
            self._measures[key] = lsengine.compare(self.surface(name), level=level).rows[0].measures
        measure = self._measures[key][figure]
        if measure.value is None:
            raise UndecidedError(f"{figure} of {name}: {measure.why}")
        return measure

    def reaches(self, name: str) -> tuple[float, float]:
        """Return how far a line can be followed from either minimum; see `reaches`."""
        line = self.surface(name)
        return reaches(line.alpha, line.masked("train_loss").filled(np.nan))

    def falls(self, name: str, noise: float = 0.0, seed: int = 0) -> tuple[Mask, Mask, Floats]:
        """Return for each cell of a plane whether the loss falls on the way out; see `falls`.

        With ``noise`` each loss is changed by so large a part of it, normally distributed.

        Returns:
            That, whether the cell counts, and its distance from the centre; all (B, A).
        """
        surface = self.surface(name)
        assert surface.beta is not None
        loss_BA = surface.masked("train_loss").filled(np.nan)
        factor = 1 + noise * np.random.default_rng(seed).standard_normal(loss_BA.shape)
        return falls(surface.alpha, surface.beta, loss_BA * factor)

    def away(self, name: str, reach: float = np.inf, noise: float = 0.0) -> float:
        """Return the share of cells up to ``reach`` in which the loss falls on the way out."""
        seeds = range(20) if noise else [0]
        shares = []
        for seed in seeds:
            falls_BA, counts_BA, distance_BA = self.falls(name, noise, seed)
            shares.append(falls_BA[counts_BA & (distance_BA <= reach)].mean())
        return float(np.mean(shares))

    def negative(self, name: str) -> tuple[Floats, Mask]:
        """Return the shares of negative curvature of a plane, and where its loss falls.

        A share is the modulus of the smallest eigenvalue by the largest one, 0 without negative
        ones.  Only cells count whose eigenvalues have converged and whose slope is known; (N,).
        """
        surface = self.surface(name)
        low, high = (surface.masked(f"eigenvalue_{end}") for end in ("min", "max"))
        falls_BA, chosen, _ = self.falls(name)
        chosen = chosen & surface.done & (high.filled(0.0) > 0)
        chosen &= surface.quantities.get("converged", np.ones(chosen.shape)) > 0
        share = np.maximum(-low.data[chosen], 0.0) / high.data[chosen]
        return share, falls_BA[chosen]

    def displacement(self, name: str) -> tuple[float, float]:
        """Return the share of the checkpoints' squared distances that a plane shows, and of chance.

        Two random directions of n parameters show 2/n on average.
        """
        path = self.surface(name).trajectory
        assert path is not None
        # The mean modulus of a random cosine is sqrt(2 / (pi n)).
        chance = math.pi * float(path.attributes["expected_cosine"]) ** 2
        return float(path.attributes["explained_displacement"]), chance

    def variance(self, name: str) -> float:
        """Return the share of the variance that the first two principal components have."""
        path = self.surface(name).trajectory
        assert path is not None
        return float(np.sum(path.attributes["explained_variance_ratio"]))

    def sideways(self, name: str) -> float:
        """Return the extent of a path along beta by that along alpha, in units of the weights."""
        path = self.surface(name).trajectory
        assert path is not None
        sizes = self.surface(name).direction_sizes
        along = {a: float(np.ptp(path.columns[a])) * sizes[a].length for a in ("alpha", "beta")}
        return along["beta"] / along["alpha"]


def reaches(alpha: ArrayLike, loss: ArrayLike) -> tuple[float, float]:
    """Return how far a line, between minima at 0 and 1, can be followed from either end.

    The loss is at most `LEVEL` above that of the end; it is linear between the steps.  A loss
    that is not finite is above it from the step before on.
    """
    steps, losses = np.asarray(alpha, dtype=np.float64), np.asarray(loss, dtype=np.float64)
    between = (steps > -1e-9) & (steps < 1 + 1e-9)
    steps, losses = steps[between], losses[between]
    return _reach(steps, losses), _reach(1 - steps[::-1], losses[::-1])


def _reach(steps: Floats, losses: Floats) -> float:
    rise = losses - losses[0]
    above = np.flatnonzero(~(rise <= LEVEL))
    if not above.size:
        return float(steps[-1])
    last = above[0] - 1
    if not np.isfinite(rise[above[0]]):
        return float(steps[last])
    return float(np.interp(LEVEL, rise[last : last + 2], steps[last : last + 2]))


def falls(alpha: ArrayLike, beta: ArrayLike, loss_BA: ArrayLike) -> tuple[Mask, Mask, Floats]:
    """Return in which cells the loss falls when one goes away from the centre.

    Its slope along the ray from the centre is negative there: by central differences, one-sided
    ones at the edges.  On a convex surface with its minimum at the centre the true slope never is.
    Differences of its cells can be, where its valley is narrower than the cells.

    Returns:
        That; which cells count (not the centre, and none without a finite slope); and their
        distances from the centre; all (B, A).
    """
    a, b = (np.asarray(axis, dtype=np.float64) for axis in (alpha, beta))
    slope_beta, slope_alpha = np.gradient(np.asarray(loss_BA, dtype=np.float64), b, a)
    x, y = np.meshgrid(a, b)
    outward, distance = slope_alpha * x + slope_beta * y, np.hypot(x, y)
    counts = np.isfinite(outward) & (distance > 1e-9)
    return counts & (outward < 0), counts, distance


class Ranked:
    """Two rows of numbers, one pair for each network, and their rank correlation.

    Ranks are within families of networks.  Of several families the deviations from the mean rank
    are pooled, in units of the family's size: what differs between families does not count.

    Args:
        x_N: Numbers, such as areas.
        y_N: Numbers, such as errors.
        family_N: What each network belongs to; None if all belong together.
    """

    def __init__(
        self, x_N: ArrayLike, y_N: ArrayLike, family_N: Sequence[object] | None = None
    ) -> None:
        x, y = (np.asarray(row, dtype=np.float64) for row in (x_N, y_N))
        families = list(family_N or [""] * x.size)
        members = [np.array([f == one for f in families]) for one in dict.fromkeys(families)]
        self._families = [(x[mask], y[mask]) for mask in members]

    def correlation(self) -> float:
        """Return Spearman's correlation; NaN if all numbers of a row are equal."""
        chosen = [np.arange(x.size)[None] for x, _ in self._families]
        return float(self._correlations(chosen)[0])

    def interval(self, seed: int = 0) -> tuple[float, float]:
        """Return its 95 % interval: percentiles over networks drawn with replacement.

        Each family keeps its size.  Draws without a correlation do not count.
        """
        rng = np.random.default_rng(seed)
        drawn = [rng.integers(x.size, size=(RESAMPLES, x.size)) for x, _ in self._families]
        found = self._correlations(drawn)
        low, high = np.percentile(found[np.isfinite(found)], INTERVAL)
        return float(low), float(high)

    def _correlations(self, drawn: Sequence[NDArray[np.int64]]) -> Floats:
        """Return the correlation of each resample; ``drawn`` has one array (R, N) a family."""
        sums = np.zeros((3, len(drawn[0])))
        for (x, y), chosen in zip(self._families, drawn, strict=True):
            first, second = (_deviations(row[chosen]) for row in (x, y))
            sums += [(p * q).sum(axis=1) for p, q in ((first, second), (first,) * 2, (second,) * 2)]
        with np.errstate(invalid="ignore"):
            found: Floats = sums[0] / np.sqrt(sums[1] * sums[2])
        return found


def _deviations(values_RN: Floats) -> Floats:
    """Return how far each rank is from the middle one, in units of their number."""
    count = values_RN.shape[1]
    deviations: Floats = (rankdata(values_RN, axis=1) - (count + 1) / 2) / count
    return deviations
