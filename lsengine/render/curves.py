"""Curves along one direction: losses, accuracies, and repeats with their spread.

Shape suffixes: A alphas, R repeats (1 without repeats), P points that are drawn.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter
from numpy.typing import NDArray

from lsengine.errors import UsageError
from lsengine.render import cells, page, scales
from lsengine.render.quantities import Quantity, describe, preferred
from lsengine.render.request import Request
from lsengine.surface import DONE, MISSING, Surface

Floats = NDArray[np.float64]

LOSSES = ("train_loss", "test_loss")
ACCURACIES = ("train_accuracy", "test_accuracy")
NAME = 0.85  # size of a minimum's name above the axes, in that of the labels
MARKED = 15  # a curve of fewer points shows them


@dataclass(frozen=True, slots=True)
class Curve:
    """One quantity of one surface along alpha, in the unit drawn.

    Attributes:
        quantity: What it is.
        alpha: (A,), increasing.
        values: NaN wherever there is no finite result; (R, A).
        missing: Cells not computed yet, over which the line runs on; (R, A).
    """

    quantity: Quantity
    alpha: Floats
    values: Floats
    missing: NDArray[np.bool_]

    @property
    def repeats(self) -> int:
        """Number of independent directions."""
        return int(self.values.shape[0])


def draw(request: Request) -> Figure:
    """Draw curves: one surface with two axes, several with a panel for each family.

    Raises:
        UsageError: If a surface has no finite value, or log was asked for negative ones.
    """
    names = _chosen(request)
    losses = [n for n in names if not describe(n).is_percent]
    accuracies = [n for n in names if describe(n).is_percent]
    families = [family for family in (losses, accuracies) if family]
    single = len(request.surfaces) == 1
    curves = {
        (i, name): curve_of(surface, name)
        for i, surface in enumerate(request.surfaces)
        for name in names
        if name in surface.quantities
    }
    _check(request, curves)
    twin = single and len(families) == 2 and _repeats(curves) == 1
    panels = 1 if twin else len(families)
    style = request.style
    width = (style.width if panels == 1 else style.wide) / panels
    figure, axes = page.sheet(panels, style, 0.68 * min(width, style.height * 1.45) / width)
    sides = [axes[0], axes[0].twinx()] if twin else axes
    for side, family in zip(sides, families, strict=True):
        mine = {key: c for key, c in curves.items() if key[1] in family}
        _family(side, mine, request, colored=twin)
    for panel in axes:
        along = any(surface.is_trained_curve for surface in request.surfaces)
        panel.set_xlabel(r"$t$, from one minimum to the other" if along else r"$\alpha$")
        ends = np.concatenate([curve.alpha for curve in curves.values()])
        if np.ptp(ends) > 0:
            panel.set_xlim(ends.min(), ends.max())
        minima(panel, request)
    _words(figure, axes, curves, request, twin)
    page.settle(figure)
    return figure


def minima(axes: Axes, request: Request) -> None:
    """Draw an upright line where other minima lie, and then one at the centre, too."""
    ends = {alpha for s in request.surfaces for alpha, _ in s.other_minima}
    left, right = axes.get_xlim()
    edge = 0.06 * (right - left)
    for x, name in [(0.0, "centre"), *((end, "other minimum") for end in sorted(ends))]:
        if not ends or not left <= x <= right:
            continue
        axes.axvline(x, color=request.style.faint, linewidth=1.0, zorder=1)
        axes.annotate(
            name,
            (x, 1.0),
            xycoords=axes.get_xaxis_transform(),
            xytext=(0.0, 3.0),
            textcoords="offset points",
            ha="right" if x > right - edge else "left" if x < left + edge else "center",
            va="bottom",
            fontsize=float(axes.xaxis.label.get_fontsize()) * NAME,
        )


def _chosen(request: Request) -> list[str]:
    """Return the quantities to draw: the one asked for, or losses and accuracies."""
    if request.quantity is not None:
        return [request.quantity]
    held = {name for surface in request.surfaces for name in surface.quantities}
    return [n for n in (*LOSSES, *ACCURACIES) if n in held] or [preferred(held)]


def curve_of(surface: Surface, name: str) -> Curve:
    """Sort the cells of one quantity of a surface along alpha."""
    quantity = describe(name)
    order = np.argsort(surface.axes["alpha"])
    alpha = np.asarray(surface.axes["alpha"], dtype=np.float64)[order]
    values = np.atleast_2d(np.asarray(surface.quantities[name], dtype=np.float64))[:, order]
    status = np.atleast_2d(surface.status)[:, order]
    good = (status == DONE) & np.isfinite(values)
    drawn = np.where(good, values, np.nan) * quantity.factor
    return Curve(quantity, alpha, drawn, status == MISSING)


def _check(request: Request, curves: dict[tuple[int, str], Curve]) -> None:
    for index, surface in enumerate(request.surfaces):
        mine = [c for (i, _), c in curves.items() if i == index]
        if not any(np.isfinite(c.values).any() for c in mine):
            counts = cells.tally(surface.status, surface.quantities.values())
            raise UsageError(
                f"{surface.source}: has no finite value to draw along alpha "
                f"({counts.bad_text() or 'none of the quantities asked for'} of "
                f"{counts.cells:,} cells)"
            )


def _repeats(curves: dict[tuple[int, str], Curve]) -> int:
    return max(curve.repeats for curve in curves.values())


def _family(
    axes: Axes, curves: dict[tuple[int, str], Curve], request: Request, *, colored: bool
) -> None:
    """Draw losses or accuracies on their axis."""
    style = request.style
    percent = any(c.quantity.is_percent for c in curves.values())
    plain = len(request.surfaces) == 1
    colors = page.colors(request.style, len(request.surfaces))
    for (index, _), curve in curves.items():
        color = style.colors[int(percent)] if plain else colors[index]
        line(axes, curve, color)
    _label(axes, [c.quantity for c in curves.values()])
    if percent:
        axes.set_ylim(*_percent_limits(curves))
        axes.locator_params(axis="y", nbins=6)
    else:
        fit_scale(axes, curves, request)
    if colored:
        color = style.colors[int(percent)]
        axes.yaxis.label.set_color(color)
        axes.tick_params(axis="y", colors=color, which="both")
    axes.set_axisbelow(True)
    if not (colored and percent):
        axes.grid(True, linewidth=0.4, color=style.faint, alpha=0.5)


def _label(axes: Axes, quantities: Sequence[Quantity]) -> None:
    labels = list(dict.fromkeys(q.label for q in quantities))
    short = {"training loss": "loss", "training accuracy (%)": "accuracy (%)"}
    axes.set_ylabel(short.get(labels[0], labels[0]) if len(labels) > 1 else labels[0])


def line(axes: Axes, curve: Curve, color: str, dashes: Any = None) -> None:
    """Draw one line, or repeats as thin lines, a quartile band and the median.

    Args:
        axes: Where.
        curve: What.
        color: Of all of it.
        dashes: A line style; by default that of the quantity's split.
    """
    dashes = dashes or _dashes(curve.quantity.name)
    if curve.repeats == 1:
        _run(axes, curve, 0, color=color, linestyle=dashes, linewidth=1.5)
        return
    for repeat in range(curve.repeats):
        _run(axes, curve, repeat, color=color, linestyle=dashes, linewidth=0.5, alpha=0.4)
    with warnings.catch_warnings():  # an alpha without any value has no median: NaN is right
        warnings.simplefilter("ignore", RuntimeWarning)
        q1, median, q3 = np.nanquantile(curve.values, (0.25, 0.5, 0.75), axis=0)
    there = np.isfinite(median)
    x = curve.alpha[there]
    axes.fill_between(x, q1[there], q3[there], color=color, alpha=0.18, linewidth=0)
    axes.plot(x, median[there], color=color, linestyle=dashes, linewidth=1.9)


def _dashes(name: str) -> Any:
    """Return the line of a split: training solid, test dotted."""
    return (0, (1.0, 1.5)) if name.startswith("test") else "solid"


def _run(axes: Axes, curve: Curve, repeat: int, **look: Any) -> None:
    """Draw one repeat: on over missing cells, broken at failed and non-finite ones."""
    there = ~curve.missing[repeat]
    x, y = curve.alpha[there], curve.values[repeat][there]
    lone = np.isfinite(y) & ~np.isfinite(np.r_[np.nan, y[:-1]]) & ~np.isfinite(np.r_[y[1:], np.nan])
    few = curve.repeats == 1 and (y.size < MARKED or bool(curve.missing.any()))
    marker = {"marker": "o", "markersize": 3.0} if few else {}
    axes.plot(x, y, **{**look, **marker})
    if lone.any() and not few:  # a value between two gaps has no line to be seen on
        axes.plot(x[lone], y[lone], ".", color=str(look["color"]), markersize=3.0)


def fit_scale(axes: Axes, curves: dict[tuple[int, str], Curve], request: Request) -> None:
    """Take the vertical scale from all finite values, cliffs clipped as in planes."""
    values = np.concatenate([c.values[np.isfinite(c.values)] for c in curves.values()])
    quantity = next(iter(curves.values())).quantity
    scale = scales.choose(values, quantity, request.scale, request.levels, request.limits)
    low, high = float(values.min()), float(values.max())
    if request.limits:
        low, high = request.limits
    else:
        low = scale.low if scale.extend in ("min", "both") else low
        high = scale.high if scale.extend in ("max", "both") else high
    if scale.kind == "log":
        axes.set_yscale("log", nonpositive="mask")
        low, high = max(low, scale.low), high
        room = 0.0 if request.limits else 0.04 * np.log10(max(high / low, 1.1))
        axes.set_ylim(low * 10**-room, high * 10**room)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: scales.power_text(v)))
        axes.yaxis.set_minor_formatter(NullFormatter())
        return
    if scale.kind == "symlog":
        axes.set_yscale("symlog", linthresh=scale.threshold)
    room = 0.0 if request.limits else 0.04 * (high - low) or 0.05 * abs(high) or 0.5
    axes.set_ylim(low - room, high + room)


def _percent_limits(curves: dict[tuple[int, str], Curve]) -> tuple[float, float]:
    """Return limits just around the values, not beyond what an accuracy can be by much."""
    values = np.concatenate([c.values[np.isfinite(c.values)] for c in curves.values()])
    if not values.size:
        return 0.0, 100.0
    low, high = float(values.min()), float(values.max())
    room = max(0.04 * (high - low), 0.5)
    return low - room, high + room


def _words(
    figure: Figure,
    axes: list[Axes],
    curves: dict[tuple[int, str], Curve],
    request: Request,
    twin: bool,
) -> None:
    """Write the caption, the legend below, and what is not drawn."""
    surfaces = request.surfaces
    if len(surfaces) == 1 and len(axes) == 1:
        named = NAME * float(axes[0].xaxis.label.get_fontsize())
        page.caption(axes[0], surfaces[0], above=1.3 * named if surfaces[0].other_minima else 0.0)
    elif len(surfaces) == 1:
        error = cells.centre_error(surfaces[0])
        tail = "" if error is None else f", test error {error:.2f} %"
        figure.suptitle(page.printable(surfaces[0].name) + tail, parse_math=False)
    handles = _handles(curves, request, twin)
    lines = _notes(curves, request)
    size = float(axes[0].xaxis.label.get_fontsize())
    page.legend(figure, handles, size * 0.88)
    for panel in axes[:1]:
        page.note(panel, lines, size * 2.9 + 4.0)


def _handles(curves: dict[tuple[int, str], Curve], request: Request, twin: bool) -> list[Line2D]:
    """Return legend entries: surfaces by colour, then splits by dash."""
    style, several = request.style, len(request.surfaces) > 1
    made = []
    for index, surface in enumerate(request.surfaces if several else ()):
        error = cells.centre_error(surface)
        tail = "" if error is None else f" (test error {error:.2f} %)"
        color = page.colors(request.style, len(request.surfaces))[index]
        made.append(Line2D([], [], color=color, label=page.printable(surface.name) + tail))
    names = list(dict.fromkeys(name for _, name in curves))
    if twin or not several:
        for name in names:
            percent = describe(name).is_percent
            look: dict[str, Any] = {"color": style.colors[int(percent)], "linestyle": _dashes(name)}
            label = describe(name).label.replace(" (%)", "").replace("training", "train")
            made.append(Line2D([], [], label=label, **look))
        return made
    for split in ("train", "test"):
        if any(name.startswith(split) for name in names):
            made.append(Line2D([], [], color=style.ink, linestyle=_dashes(split), label=split))
    return made


def _notes(curves: dict[tuple[int, str], Curve], request: Request) -> list[str]:
    lines = []
    for index, surface in enumerate(request.surfaces):
        mine = [name for i, name in curves if i == index]
        counts = cells.tally(surface.status, [surface.quantities[name] for name in mine])
        head = f"{page.printable(surface.name)}: " if len(request.surfaces) > 1 else ""
        shown = "joined over" if curves[index, mine[0]].repeats == 1 else ""
        said = page.about_cells(counts, hatched=shown, bad="gaps")
        lines += [head + line for line in said]
    repeats = _repeats(curves)
    if repeats > 1:
        lines.append(f"{repeats} repeats: median in bold, band from 25 % to 75 %")
    return lines
