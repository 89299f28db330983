"""One scale for all that is in a figure: log or linear, where it ends, its round levels.

Everything is drawn in *scaled* coordinates (the logarithm, say) and labelled in values, so
that contours between two cells are interpolated on the scale the reader sees.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lsengine.errors import NothingToDraw, UsageError
from lsengine.surface.cells import Floats
from lsengine.surface.quantities import Quantity

Extend = Literal["neither", "min", "max", "both"]
LOG_DECADES = 1.5  # positive values spanning more are shown on a log scale
MOST_DECADES = 8.0  # beyond, the basin would be one colour; the cliffs are clipped instead
FENCE = 3.0  # Tukey's "far out": this many interquartile ranges beyond the quartiles
LEAST_REACH = 2.0  # decades a log scale always follows the values beyond their quartiles
KEPT = 0.97  # share of the values that no end of a scale cuts off
LEVELS = 12  # contour levels, about
HUGE = 1e150  # squares of larger numbers overflow inside matplotlib
STRIDES = (1, 2, 4, 5, 10, 20, 50)  # multiples of round steps that are round again
_MANTISSAS = ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 5.0, 7.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Where values go and what they are called."""

    # `linear`, `log`, `symlog` (logarithmic in both signs), or `quantile`: as many cells
    # between one level and the next, everywhere.
    kind: str
    low: float  # ends of the scale, in values: the outermost levels
    high: float
    levels: Floats  # round values, increasing, from `low` to `high`; (L,)
    extend: Extend  # `neither`, `min`, `max` or `both`: which ends are clipped
    threshold: float = 1.0  # of symlog: below it the scale is linear
    constant: bool = False  # whether all values are one and the same

    def forward(self, values: NDArray[Any] | float) -> Floats:
        """Return scaled coordinates of any shape; NaN stays NaN, too low ones go below."""
        v = np.asarray(values, dtype=np.float64)
        if self.kind == "log":
            below = np.where(np.isnan(v), np.nan, self.low * 1e-3)
            return np.asarray(np.log10(np.where(v > self.low * 1e-3, v, below)))
        v = np.clip(v, -HUGE, HUGE)
        if self.kind == "symlog":
            return _symlog(v, self.threshold)
        if self.kind == "quantile":
            steps = np.interp(v, self.levels, np.arange(self.levels.size))
            return np.asarray(steps + np.sign(v - np.clip(v, self.low, self.high)))
        return v

    @property
    def span(self) -> tuple[float, float]:
        """The ends in scaled coordinates."""
        return float(self.forward(self.low)), float(self.forward(self.high))

    def labelled(self, most: int) -> Floats:
        """Return the levels that get a number: all, or the ``most`` round ones at most."""
        if self.levels.size <= most:
            return self.levels
        if self.kind == "log":
            texts = [f"{level:.6e}" for level in self.levels]
            digits = np.array([text[0] if text[1:8] == ".000000" else "" for text in texts])
            for wanted in ("1235", "125", "13", "1"):
                chosen = self.levels[np.isin(digits, list(wanted))]
                if 3 <= chosen.size <= most:
                    return np.asarray(chosen)
        stride = next((n for n in STRIDES if self.levels.size / n <= most), self.levels.size)
        zero = int(np.abs(self.levels).argmin())
        if self.kind == "linear":  # the place of zero among the levels, were they to go on
            zero = -round(self.levels[1] / (self.levels[2] - self.levels[1])) + 1
        return self.levels[zero % stride :: stride]

    def text(self, value: float) -> str:
        """Return a value of `levels` as it is printed."""
        if self.kind == "linear":
            gap = float(np.min(np.diff(self.levels))) if self.levels.size > 1 else 0.0
            return linear_text(value, gap, float(np.abs(self.levels).max()))
        return power_text(value)

    def tick_text(self, value: float, ticks: Floats) -> str:
        """Return one of the increasing ticks as an axis prints it: all plain, or all powers."""
        if self.kind == "log" and ticks.size > 1:
            return log_text(value, float(ticks[0]), float(ticks[-1]))
        return self.text(value)


def choose(
    values: Floats,
    quantity: Quantity,
    scale: str,
    levels: int | tuple[float, ...] | None,
    limits: tuple[float, float] | None,
) -> Scale:
    """Fit one scale to all finite values of a figure.

    Args:
        values: Finite values in the unit drawn, any order; (N,).
        quantity: Percentages stay linear and within 0 to 100.
        scale: ``auto``, ``linear``, ``log`` or ``quantile``.
        levels: About how many, None for `LEVELS`; or the user's own.
        limits: Ends fixed by the user: of own levels the outermost ones.

    Raises:
        UsageError: If log was asked for negative values.
        NothingToDraw: If there are no values.
    """
    if not values.size:
        raise NothingToDraw("render: no finite value to draw a scale for")
    if isinstance(levels, tuple):
        return _as_wished(values, quantity, scale, np.array(levels, dtype=np.float64))
    if scale == "quantile" and np.ptp(values) > 0:
        return _by_quantiles(values, levels or LEVELS, limits)
    kind, threshold = _kind(np.clip(values, -HUGE, HUGE), quantity, scale, limits)
    v = values if kind == "log" else np.clip(values, -HUGE, HUGE)
    low, high = limits if limits else _robust(v, kind, threshold, quantity)
    low, high, constant = _opened(low, high, kind)
    marks = _levels(low, high, kind, levels or LEVELS, threshold)
    if limits:
        inside = marks[(marks > limits[0]) & (marks < limits[1])]
        marks = np.concatenate(([limits[0]], inside, [limits[1]]))
    elif quantity.is_percent:
        marks = np.unique(np.clip(marks, 0.0, 100.0))
    return Scale(
        kind=kind,
        low=float(marks[0]),
        high=float(marks[-1]),
        levels=marks,
        extend=_extend(v, marks[0], marks[-1]),
        threshold=threshold,
        constant=constant,
    )


def _as_wished(values: Floats, quantity: Quantity, scale: str, levels: Floats) -> Scale:
    """Return a scale with the user's own levels; of ``quantile``, with equal steps of colour."""
    low, high = float(levels[0]), float(levels[-1])
    kind, threshold = scale, 1.0
    if scale != "quantile":
        kind, threshold = _kind(np.clip(values, -HUGE, HUGE), quantity, scale, (low, high))
    extend = _extend(values, low, high)
    return Scale(kind=kind, low=low, high=high, levels=levels, extend=extend, threshold=threshold)


def _extend(values: Floats, low: float, high: float) -> Extend:
    below, above = bool((values < low).any()), bool((values > high).any())
    return "both" if below and above else "min" if below else "max" if above else "neither"


def _by_quantiles(values: Floats, wanted: int, limits: tuple[float, float] | None) -> Scale:
    """Return levels between which there are equally many values, to two digits if they can."""
    low, high = limits if limits else (float(values.min()), float(values.max()))
    inside = values[(values >= low) & (values <= high)]
    marks = np.quantile(inside, np.linspace(0, 1, wanted)[1:-1]) if inside.size else np.empty(0)
    for digits in (2, 3, 6, 16):
        rounded = np.unique([float(f"{mark:.{digits - 1}e}") for mark in marks])
        if rounded.size > 0.8 * wanted:
            break
    inner = rounded[(rounded > low) & (rounded < high)]
    if limits is None:
        low, high = _outward(low, -1.0), _outward(high, 1.0)
    extend = "neither" if limits is None else _extend(values, low, high)
    levels = np.array([low, *inner, high])
    return Scale(kind="quantile", low=low, high=high, levels=levels, extend=extend)


def _outward(value: float, sign: float) -> float:
    """Return a number of two digits just beyond a value, upwards or downwards."""
    if value == 0:
        return 0.0
    step = 10.0 ** (math.floor(math.log10(abs(value))) - 1)
    rounded = math.ceil(sign * value / step - 1e-9) * step * sign
    return float(f"{rounded:.1e}")


def _kind(
    v: Floats, quantity: Quantity, scale: str, limits: tuple[float, float] | None
) -> tuple[str, float]:
    """Return the kind of scale, and symlog's threshold."""
    negative, positive = int((v < 0).sum()), v[v > 0]
    if scale == "log":
        if negative or not positive.size:
            raise UsageError(
                f"render: scale log asked for {quantity.name}, but {int((v <= 0).sum()):,} of "
                f"{v.size:,} values are not positive; use --scale auto or linear"
            )
        return "log", 1.0
    if scale == "linear" or quantity.is_percent or (limits and limits[0] <= 0):
        return "linear", 1.0
    if not negative:
        wide = positive.size and math.log10(positive.max() / positive.min()) > LOG_DECADES
        return ("log" if wide and positive.size > 0.9 * v.size else "linear"), 1.0
    q1, middle, q3 = np.quantile(v, (0.25, 0.5, 0.75))
    iqr = float(q3 - q1)
    if iqr > 0 and np.abs(v - middle).max() > 10**LOG_DECADES * iqr:
        return "symlog", 10.0 ** math.floor(math.log10(max(iqr, abs(float(middle)))))
    return "linear", 1.0


def _robust(v: Floats, kind: str, threshold: float, quantity: Quantity) -> tuple[float, float]:
    """Return ends that a few cliffs cannot push away: far-out values are clipped.

    Not at the good end: the basin is what one wants to see.  Percentages have no cliffs.
    """
    if quantity.is_percent:
        return float(v.min()), float(v.max())
    if kind == "log":
        v = v[v > 0]
    t = np.log10(v) if kind == "log" else _symlog(v, threshold) if kind == "symlog" else v
    q1, q3 = np.quantile(t, (0.25, 0.75))
    reach, low, high = FENCE * (q3 - q1), float(t.min()), float(t.max())
    if kind == "log":
        reach = max(reach, LEAST_REACH)
    if reach > 0:
        most = np.quantile(t, (1.0 - KEPT, KEPT))
        fence = max(low, min(q1 - reach, most[0])), min(high, max(q3 + reach, most[1]))
        worth = 0.1 * (fence[1] - fence[0])  # clipping for less than this only confuses
        if kind != "log" and quantity.best != "low":
            low = fence[0] if fence[0] - low > worth else low
        high = fence[1] if high - fence[1] > worth else high
    if kind == "log" and high - low > MOST_DECADES:
        low = max(low, float(q1) - MOST_DECADES)
        high = max(low + MOST_DECADES, float(np.quantile(t, KEPT)))
    if kind == "linear":
        return low, high
    if kind == "log":
        low, high = 10.0**low, 10.0**high
    else:
        low, high = (math.copysign(threshold * (10 ** abs(t) - 1.0), t) for t in (low, high))
    return max(low, float(v.min())), min(high, float(v.max()))


def _opened(low: float, high: float, kind: str) -> tuple[float, float, bool]:
    """Give a constant some room around it, so that it has a scale."""
    size = max(abs(low), abs(high))
    if high - low > 1e-12 * size:
        return low, high, False
    if kind == "log":
        return low / 1.05, high * 1.05, True
    room = 0.05 * size or 0.5
    return low - room, high + room, True


def _levels(low: float, high: float, kind: str, wanted: int, threshold: float) -> Floats:
    if kind == "symlog":
        return _symlog_levels(low, high, wanted, threshold)
    if kind == "log" and math.log10(high / low) > 0.7:
        stride = max(1, math.ceil(math.log10(high / low) / max(wanted, 1)))
        tried = [_log_levels(low, high, stride, _MANTISSAS[0])]
        tried += [_log_levels(low, high, 1, mantissas) for mantissas in _MANTISSAS]
        return min(tried, key=lambda levels: abs(levels.size - wanted))
    return linear_levels(low, high, wanted)


def _log_levels(low: float, high: float, stride: int, mantissas: tuple[float, ...]) -> Floats:
    """Return round levels whose outermost just enclose both ends, every ``stride`` decades."""
    first = math.floor(math.log10(low) + 1e-9)
    last = math.ceil(math.log10(high) - 1e-9) + stride
    every = np.array([m * 10.0**k for k in range(first, last + 1, stride) for m in mantissas])
    start = int(np.searchsorted(every, low * (1 + 1e-9), "right")) - 1
    stop = int(np.searchsorted(every, high * (1 - 1e-9), "left")) + 1
    return np.asarray(every[max(start, 0) : stop])


def linear_levels(low: float, high: float, wanted: int) -> Floats:
    """Return about ``wanted`` multiples of 1, 2, 2.5 or 5 times a power of ten, enclosing."""
    raw = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * min((1.0, 2.0, 2.5, 5.0, 10.0), key=lambda m: abs(m * power - raw))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return np.round(np.arange(first, last + 1) * step, 12 - math.floor(math.log10(step)))


def _symlog_levels(low: float, high: float, wanted: int, threshold: float) -> Floats:
    """Return zero and powers of ten of both signs from the threshold on."""
    top = math.ceil(math.log10(max(abs(low), abs(high), threshold)))
    bottom = round(math.log10(threshold))
    stride = max(1, math.ceil((top - bottom + 1) * 2 / wanted))
    powers = 10.0 ** np.arange(bottom, top + stride, stride)
    every = np.concatenate((-powers[::-1], [0.0], powers))
    start = max(int(np.searchsorted(every, low, "right")) - 1, 0)
    stop = int(np.searchsorted(every, high, "left")) + 1
    return np.asarray(every[start:stop])


def _symlog(v: Floats, threshold: float) -> Floats:
    return np.asarray(np.sign(v) * np.log10(1.0 + np.abs(v) / threshold))


def linear_text(value: float, gap: float, largest: float) -> str:
    """Print a value with the digits its neighbours at a distance of ``gap`` call for.

    Powers of ten where all are large, or the ``largest`` is small.
    """
    if value == 0:
        return "0"
    if gap >= 1e4 or largest < 1e-2:
        digits = max(0, math.ceil(math.log10(abs(value) / gap) - 1e-9)) if gap else 2
        mantissa, exponent = f"{value:.{min(digits, 9)}e}".split("e")
        return power_text(float(mantissa), int(exponent))
    for decimals in range(13):
        if abs(round(value, decimals) - value) <= 1e-3 * (gap or 1e-3 * abs(value)):
            return f"{value:.{decimals}f}".replace("-", "\N{MINUS SIGN}")
    return f"{value:g}".replace("-", "\N{MINUS SIGN}")


def log_text(value: float, low: float, high: float) -> str:
    """Print a value of a log axis that goes from ``low`` to ``high``: one manner for all of it."""
    if low >= 1e-3 and high <= 1e4:
        return power_text(value) if value < 1e4 else f"{value:g}"
    exponent = math.floor(math.log10(value) + 1e-9)
    return power_text(float(f"{value / 10.0**exponent:.6g}"), exponent)


def power_text(value: float, exponent: int | None = None) -> str:
    """Print 0.05, 1, 200, and outside 0.001 to 9999 a power of ten in math text."""
    if exponent is None:
        if value == 0 or 1e-3 <= abs(value) < 1e4:
            return f"{value:g}".replace("-", "\N{MINUS SIGN}")
        mantissa, _, tail = f"{value:.3g}".partition("e")
        if not tail:
            mantissa, _, tail = f"{value:.2e}".partition("e")
        exponent = int(tail)
        value = float(mantissa)
    if value == 0:
        return "0"
    sign, size = ("-" if value < 0 else ""), f"{abs(value):g}"
    head = f"{sign}" if size == "1" else rf"{sign}{size}\times"
    return rf"${head}10^{{{exponent}}}$"
