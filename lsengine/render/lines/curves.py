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
from numpy.typing import NDArray

from lsengine.errors import NothingToDraw
from lsengine.render import page
from lsengine.render.page import scales
from lsengine.render.request import Request
from lsengine.surface import DONE, MISSING, Surface, cells
from lsengine.surface.quantities import Quantity, describe, preferred

Floats = NDArray[np.float64]
LOSSES = ("train_loss", "test_loss")
ACCURACIES = ("train_accuracy", "test_accuracy")
NAME = 0.85  # size of a minimum's name above the axes, in that of the labels
MARKED = 15  # a curve of fewer points shows them
DECADES = 12.0  # a log axis of more says nothing of any


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
        panel.locator_params(axis="x", nbins=7)
        minima(panel, request)
    _words(figure, axes, curves, request, twin)
    page.settle(figure)
    return figure


def minima(axes: Axes, request: Request) -> None:
    """Draw an upright line where other minima lie, and then one at the centre, too."""
    ends = {alpha for s in request.surfaces for alpha, _ in s.marked_minima}
    left, right = axes.get_xlim()
    edge = 0.06 * (right - left)
    along = any(surface.is_trained_curve for surface in request.surfaces)
    first, other = ("minimum 1", "minimum 2") if along else ("centre", "other minimum")
    ends |= {1.0} if along else set()
    for x, name in [(0.0, first), *((end, other) for end in sorted(ends))]:
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
            raise NothingToDraw(
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
    for (index, name), curve in curves.items():
        # Of several surfaces the spread of both splits would be a tangle.
        line(axes, curve, _color(request, curves, index, name), spread=plain or not _is_test(name))
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


def _color(request: Request, curves: dict[tuple[int, str], Curve], index: int, name: str) -> str:
    """Return a line's colour: by surface; of one by family, or by split where bands overlap."""
    style = request.style
    if len(request.surfaces) > 1:
        return page.colors(style, len(request.surfaces))[index]
    if _repeats(curves) > 1:
        return style.colors[int(_is_test(name))]
    return style.colors[int(describe(name).is_percent)]


def _is_test(name: str) -> bool:
    return name.startswith("test")


def _label(axes: Axes, quantities: Sequence[Quantity]) -> None:
    labels = list(dict.fromkeys(q.label for q in quantities))
    short = {"training loss": "loss", "training accuracy (%)": "accuracy (%)"}
    axes.set_ylabel(short.get(labels[0], labels[0]) if len(labels) > 1 else labels[0])


def line(axes: Axes, curve: Curve, color: str, dashes: Any = None, *, spread: bool = True) -> None:
    """Draw one line, or repeats as thin lines, a quartile band and the median.

    Args:
        axes: Where.
        curve: What.
        color: Of all of it.
        dashes: A line style; by default that of the quantity's split.
        spread: Whether repeats show more than their median.
    """
    dashes = dashes or _dashes(curve.quantity.name)
    if curve.repeats == 1:
        _run(axes, curve, 0, color=color, linestyle=dashes, linewidth=1.5)
        return
    for repeat in range(curve.repeats if spread else 0):
        _run(axes, curve, repeat, color=color, linestyle=dashes, linewidth=0.5, alpha=0.4)
    with warnings.catch_warnings():  # an alpha without any value has no median: NaN is right
        warnings.simplefilter("ignore", RuntimeWarning)
        q1, median, q3 = np.nanquantile(curve.values, (0.25, 0.5, 0.75), axis=0)
    there = np.isfinite(median)
    x = curve.alpha[there]
    if spread:
        axes.fill_between(x, q1[there], q3[there], color=color, alpha=0.18, linewidth=0)
    axes.plot(x, median[there], color=color, linestyle=dashes, linewidth=1.9)


def _dashes(name: str) -> Any:
    """Return the line of a split: training solid, test dotted."""
    return (0, (1.0, 1.5)) if _is_test(name) else "solid"


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
    """Take the vertical scale from all finite values.

    A log axis has room for all of them; on a linear one, and beyond `DECADES`, cliffs are
    clipped as in planes.
    """
    values = np.concatenate([c.values[np.isfinite(c.values)] for c in curves.values()])
    quantity = next(iter(curves.values())).quantity
    scale = scales.choose(values, quantity, request.scale, request.levels, request.limits)
    low, high = float(values.min()), float(values.max())
    if request.limits:
        low, high = request.limits
    elif scale.kind != "log" or high / max(low, scale.low) > 10.0**DECADES:
        low = scale.low if scale.extend in ("min", "both") else low
        high = scale.high if scale.extend in ("max", "both") else high
    if scale.kind == "log":
        low = max(low, float(values[values > 0].min(initial=high)), 1e-300)
        room = 0.0 if request.limits else 0.04 * np.log10(max(high / low, 1.1))
        page.log_axis(axes, low * 10**-room, high * 10**room)
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
        page.caption(axes[0], surfaces[0], above=1.3 * named if surfaces[0].marked_minima else 0.0)
    elif len(surfaces) == 1:
        error = _errors(surfaces[0])
        tail = f", test error {error}" if error else ""
        figure.suptitle(page.printable(surfaces[0].name) + tail, parse_math=False)
    handles, keys = _handles(curves, request, twin)
    lines = _notes(curves, request)
    losses = [c.values[np.isfinite(c.values)] for c in curves.values() if not c.quantity.is_percent]
    if losses:
        lines += page.beyond_axis(axes[0], np.concatenate(losses))
    size = float(axes[0].xaxis.label.get_fontsize())
    title = page.ERRORS if any(" %)" in str(h.get_label()) for h in handles) else ""
    page.legend(figure, handles, size * 0.88, keys=keys, title=title)
    for panel in axes[:1]:
        page.note(panel, lines, size * 2.9 + 4.0)


def _handles(
    curves: dict[tuple[int, str], Curve], request: Request, twin: bool
) -> tuple[list[Line2D], int]:
    """Return legend entries, surfaces and then splits, and how many there are of the latter."""
    style, several = request.style, len(request.surfaces) > 1
    names = list(dict.fromkeys(name for _, name in curves))
    if not several:
        made: list[Line2D] = []
        for name in names:
            look: dict[str, Any] = {"color": _color(request, curves, 0, name)}
            label = describe(name).label.replace(" (%)", "").replace("training", "train")
            if _repeats(curves) > 1:  # a colour is a split, in both panels
                label = label.partition(" ")[0] if len(names) > 1 else label
            if label not in [line.get_label() for line in made]:
                made.append(Line2D([], [], label=label, linestyle=_dashes(name), **look))
        return made, 0
    made = []
    for index, surface in enumerate(request.surfaces):
        color = page.colors(request.style, len(request.surfaces))[index]
        label = page.printable(surface.name) + _told(surface, curves)
        made.append(Line2D([], [], color=color, label=label))
    splits = [s for s in ("train", "test") if any(name.startswith(s) for name in names)]
    keys = [
        Line2D([], [], color=style.ink, linestyle=_dashes(split), label=split)
        for split in splits
        if len(splits) > 1  # else the axis says which
    ]
    return [*made, *keys], len(keys)


def _told(surface: Surface, curves: dict[tuple[int, str], Curve]) -> str:
    """Return what a legend adds to a surface's name: its barrier, else the errors of its minima."""
    for name in LOSSES:
        barrier = surface.attributes.get(f"{name}_barrier")
        if barrier is not None and any(drawn == name for _, drawn in curves):
            return f" (barrier {float(barrier):.2g})"
    return f" ({told})" if (told := _errors(surface)) else ""


def _errors(surface: Surface) -> str:
    """Return the test error at the centre, and at the minimum that a line leads to."""
    error = cells.centre_error(surface)
    told = "" if error is None else f"{error:.2f} %"
    for end, _ in surface.marked_minima:
        at = np.abs(np.asarray(surface.axes["alpha"]) - end) < 1e-9
        found = surface.quantities.get("test_accuracy", np.array([]))[at & surface.done]
        if told and found.size and np.isfinite(found[0]):
            told += f" \N{RIGHTWARDS ARROW} {100.0 * (1.0 - float(found[0])):.2f} %"
    return told


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
        of_test = (
            "; of test the median" if len(request.surfaces) > 1 and _splits(curves) > 1 else ""
        )
        lines.append(f"{repeats} repeats: median in bold, band from 25 % to 75 %{of_test}")
    return lines


def _splits(curves: dict[tuple[int, str], Curve]) -> int:
    return len({_is_test(name) for _, name in curves})
