"""What `launch/claims.py` measures on kept surfaces and histories: plain numbers.

Shape suffixes: B betas, A alphas, N networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

import lsengine
from lsengine import store
from lsengine.report.compare import Row
from lsengine.surface import Surface
from lsengine.surface.records import History

Floats = NDArray[np.float64]
RESAMPLES = 10_000
LEVELS = (2.5, 97.5)  # percent, of a bootstrap interval


class NotRunError(Exception):
    """A file that a claim needs is not kept."""


class UndecidedError(Exception):
    """A surface does not decide a number."""


class Kept:
    """The files of a folder, by their names without ending; each is read once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._surfaces: dict[str, Surface] = {}
        self._rows: dict[str, Row] = {}

    @cached_property
    def names(self) -> frozenset[str]:
        """All files that are there."""
        return frozenset(path.stem for path in self.folder.glob("*.h5"))

    def _path(self, name: str) -> Path:
        if name not in self.names:
            raise NotRunError(name)
        return self.folder / f"{name}.h5"

    def surface(self, name: str) -> Surface:
        """Return a surface."""
        if name not in self._surfaces:
            self._surfaces[name] = lsengine.open(self._path(name))
        return self._surfaces[name]

    def history(self, name: str) -> History:
        """Return the history of the training of a network."""
        return store.read_history(self._path(f"history-{name}"))

    def error(self, name: str) -> float:
        """Return the test error at the end of a training, a fraction."""
        return float(self.history(name).columns["test_error"][-1])

    def weight_norm(self, name: str) -> float:
        """Return the length of all parameters at the end of a training."""
        return float(self.history(name).columns["weight_norm"][-1])

    def figure(self, name: str, figure: str) -> float:
        """Return a figure of `lsengine compare`; of a bound the bound."""
        if name not in self._rows:
            self._rows[name] = lsengine.compare(self.surface(name), level="+0.1").rows[0]
        measure = self._rows[name].measures[figure]
        if measure.value is None:
            raise UndecidedError(f"{figure} of {name}: {measure.why}")
        return measure.value

    def away(self, name: str) -> float:
        """Return the share of a plane's cells in which the loss falls away from the centre."""
        surface = self.surface(name)
        assert surface.beta is not None
        loss_BA = surface.masked("train_loss").filled(np.nan)
        return away(surface.alpha, surface.beta, loss_BA)

    def negative_share(self, name: str, reach: float = np.inf) -> float:
        """Return the median of -smallest / largest eigenvalue in cells up to ``reach`` away.

        Of a cell without negative eigenvalues it counts as 0.  Cells whose eigenvalues have not
        converged do not count.
        """
        surface = self.surface(name)
        assert surface.beta is not None
        low, high = (surface.masked(f"eigenvalue_{end}") for end in ("min", "max"))
        near = np.hypot(*np.meshgrid(surface.alpha, surface.beta)) <= reach
        chosen = near & surface.done & (high.filled(0.0) > 0)
        chosen &= surface.quantities.get("converged", np.ones(chosen.shape)) > 0
        if not chosen.any():
            raise UndecidedError(f"no eigenvalues of {name} up to {reach:g} from the centre")
        return float(np.median(np.maximum(-low.data[chosen], 0.0) / high.data[chosen]))

    def displacement(self, name: str) -> float:
        """Return the share of the checkpoints' squared distances that a plane shows."""
        path = self.surface(name).trajectory
        assert path is not None
        return float(path.attributes["explained_displacement"])

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


def away(alpha: ArrayLike, beta: ArrayLike, loss_BA: ArrayLike) -> float:
    """Return the share of cells in which the loss falls when one goes away from the centre.

    Its slope along the ray from the centre, by central differences, is negative there.  No convex
    surface with its minimum at the centre has such a cell.  Cells without a finite slope, and the
    centre itself, do not count.
    """
    a, b = (np.asarray(axis, dtype=np.float64) for axis in (alpha, beta))
    slope_beta, slope_alpha = np.gradient(np.asarray(loss_BA, dtype=np.float64), b, a)
    x, y = np.meshgrid(a, b)
    outward = slope_alpha * x + slope_beta * y
    counted = np.isfinite(outward) & (np.hypot(x, y) > 1e-9)
    return float((outward[counted] < 0).mean())


def spearman(x_N: ArrayLike, y_N: ArrayLike) -> float:
    """Return Spearman's correlation of two rows of numbers; equal ones share their ranks.

    NaN if all numbers of a row are equal.

    Example:
        >>> round(spearman([1, 2, 3, 4], [10, 20, 40, 30]), 3)
        0.8
    """
    ranks = []
    for row in (x_N, y_N):
        row = np.asarray(row, dtype=np.float64)
        # How many are smaller, less how many are greater: twice the rank, centred.
        ranks.append(np.sign(row[:, None] - row[None, :]).sum(axis=1))
    lengths = np.sqrt([(r * r).sum() for r in ranks])
    if not lengths.all():
        return float("nan")
    return float(ranks[0] @ ranks[1] / lengths.prod())


def bootstrap(x_N: Sequence[float], y_N: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """Return a 95 % interval of `spearman`: percentiles over networks drawn with replacement.

    Draws in which all numbers of a row are equal have no correlation, and do not count.
    """
    x, y = np.asarray(x_N), np.asarray(y_N)
    drawn = np.random.default_rng(seed).integers(len(x), size=(RESAMPLES, len(x)))
    found = np.array([spearman(x[chosen], y[chosen]) for chosen in drawn])
    low, high = np.percentile(found[np.isfinite(found)], LEVELS)
    return float(low), float(high)
