"""Curves along one direction: losses, accuracies, and repeats with their spread.

Shape suffixes: A alphas, R repeats (1 without repeats).
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lsengine.errors import NothingToDraw
from lsengine.render.lines import panel
from lsengine.render.lines.curve_data import Curve, Curves, is_test
from lsengine.render.page import page, words
from lsengine.render.request import Request
from lsengine.surface import Surface, cells
from lsengine.surface.quantities import describe, preferred

LOSSES = ("train_loss", "test_loss")
ACCURACIES = ("train_accuracy", "test_accuracy")
DOTTED = (0, (1.0, 1.5))
NAME = 0.85  # size of a minimum's name above the axes, in that of the labels
MARKED = 15  # a curve of fewer points shows them


def draw(request: Request) -> Figure:
    """Draw curves: one surface with two axes, several with a panel for each family.

    Raises:
        UsageError: If a surface has no finite value, or log was asked for negative ones.
    """
    names, style = _chosen(request), request.style
    kinds = {describe(name).is_percent for name in names}  # losses first, then accuracies
    families = [[n for n in names if describe(n).is_percent == kind] for kind in sorted(kinds)]
    curves = Curves(request, names)
    _check(curves)
    twin = not curves.several and len(families) == 2 and curves.repeats == 1
    figure, axes = panel.sheet(1 if twin else len(families), style)
    sides = [axes[0], axes[0].twinx()] if twin else axes
    for side, family in zip(sides, families, strict=True):
        _family(side, Curves(request, family), colored=twin)
    trained = any(surface.is_trained_curve for surface in request.surfaces)
    for side in axes:
        side.set_xlabel(r"$t$, from one minimum to the other" if trained else r"$\alpha$")
        curves.fit_alpha(side)
        side.locator_params(axis="x", nbins=7)
    words.limit(sides, request)
    for side in axes:
        minima(side, request)
    _write(axes, sides, curves)
    return figure


def minima(axes: Axes, request: Request) -> None:
    """Draw an upright line where other minima lie, and then one at the centre, too."""
    ends = {alpha for s in request.surfaces for alpha, _ in s.marked_minima}
    (left, right), named = axes.get_xlim(), dict[float, str]()
    edge = 0.06 * (right - left)
    trained = any(surface.is_trained_curve for surface in request.surfaces)
    first, other = ("minimum 1", "minimum 2") if trained else ("centre", "other minimum")
    ends |= {1.0} if trained else set()
    for x, name in [(0.0, first), *((end, other) for end in sorted(ends))]:
        if not ends or not left <= x <= right:
            continue
        axes.axvline(x, color=request.style.faint, linewidth=1.0, zorder=1)
        named[x] = name
    if not named:
        return
    # As numbers of an axis they push titles up, those that are set later, too.
    top = axes.secondary_xaxis("top")
    top.set_xticks(list(named), list(named.values()), fontsize=page.letter(axes) * NAME)
    top.tick_params(length=0, pad=2)
    top.spines[:].set_visible(False)
    for x, label in zip(named, top.get_xticklabels(), strict=True):
        side: Any = "right" if x > right - edge else "left" if x < left + edge else "center"
        label.set_horizontalalignment(side)


def _chosen(request: Request) -> list[str]:
    """Return the quantities to draw: the one asked for, or losses and accuracies."""
    if request.quantity is not None:
        return [request.quantity]
    held = {name for surface in request.surfaces for name in surface.quantities}
    return [n for n in (*LOSSES, *ACCURACIES) if n in held] or [preferred(held)]


def _check(curves: Curves) -> None:
    for index, surface in enumerate(curves.request.surfaces):
        if not any(curve.finite.size for (i, _), curve in curves.of.items() if i == index):
            counts = cells.tally(surface.status, surface.quantities.values())
            raise NothingToDraw(
                f"{surface.source}: has no finite value to draw along alpha "
                f"({counts.bad_text() or 'none of the quantities asked for'} of "
                f"{counts.cells:,} cells)"
            )


def _family(axes: Axes, curves: Curves, *, colored: bool) -> None:
    """Draw losses or accuracies on their axis."""
    percent = any(curve.quantity.is_percent for curve in curves.of.values())
    for (index, name), curve in curves.of.items():
        # Of several surfaces the spread of both splits would be a tangle.
        spread = not (curves.several and is_test(name))
        line(axes, curve, curves.color(index, name), spread=spread)
    labels = list(dict.fromkeys(curve.quantity.label for curve in curves.of.values()))
    short = {"training loss": "loss", "training accuracy (%)": "accuracy (%)"}
    axes.set_ylabel(short.get(labels[0], labels[0]) if len(labels) > 1 else labels[0])
    if percent:  # just around the values, not beyond what an accuracy can be by much
        low, high = (curves.finite.min(), curves.finite.max()) if curves.finite.size else (0, 100)
        room = max(0.04 * (high - low), 0.5) if curves.finite.size else 0
        axes.set_ylim(low - room, high + room)
        axes.locator_params(axis="y", nbins=6)
    else:
        curves.fit_scale(axes, curves.request.scale)
    if colored:
        color = curves.request.style.colors[int(percent)]
        axes.yaxis.label.set_color(color)
        axes.tick_params(axis="y", colors=color, which="both")
    axes.set_axisbelow(True)
    if not (colored and percent):
        panel.grid(axes, curves.request.style)


def line(axes: Axes, curve: Curve, color: str, dashes: Any = None, *, spread: bool = True) -> None:
    """Draw one line, or repeats as thin lines, a quartile band and the median.

    ``dashes`` are by default those of the split: training solid, test dotted.  Without
    ``spread`` repeats show no more than their median.
    """
    dashes = dashes or (DOTTED if is_test(curve.quantity.name) else "solid")
    if curve.repeats == 1:
        _run(axes, curve, 0, color=color, linestyle=dashes, linewidth=1.5)
        return
    for repeat in range(curve.repeats if spread else 0):
        _run(axes, curve, repeat, color=color, linestyle=dashes, linewidth=0.5, alpha=0.4)
    with warnings.catch_warnings():  # an alpha without any value has no median: NaN is right
        warnings.simplefilter("ignore", RuntimeWarning)
        q1, median, q3 = np.nanquantile(curve.values, (0.25, 0.5, 0.75), axis=0)
    known = np.isfinite(median)
    x = curve.alpha[known]
    if spread:
        axes.fill_between(x, q1[known], q3[known], color=color, alpha=0.18, linewidth=0)
    axes.plot(x, median[known], color=color, linestyle=dashes, linewidth=1.9)


def _run(axes: Axes, curve: Curve, repeat: int, **look: Any) -> None:
    """Draw one repeat: on over missing cells, broken at failed and non-finite ones."""
    computed = ~curve.missing[repeat]
    x, y = curve.alpha[computed], curve.values[repeat][computed]
    lone = np.isfinite(y) & ~np.isfinite(np.r_[np.nan, y[:-1]]) & ~np.isfinite(np.r_[y[1:], np.nan])
    few = curve.repeats == 1 and (y.size < MARKED or bool(curve.missing.any()))
    marker = {"marker": "o", "markersize": 3.0} if few else {}
    axes.plot(x, y, **{**look, **marker})
    if lone.any() and not few:  # a value between two gaps has no line to be seen on
        axes.plot(x[lone], y[lone], ".", color=str(look["color"]), markersize=3.0)


def _write(axes: list[Axes], sides: list[Axes], curves: Curves) -> None:
    """Write the caption, the legend below, and what is not drawn."""
    request = curves.request
    surface = request.surfaces[0]
    if not curves.several and len(axes) == 1:
        words.caption(axes[0], surface, request)
    elif not curves.several:
        error = _errors(surface)
        facts = [f"test error {error}"] if error else []
        panel.title(axes, words.named(surface, request), facts, request)
    notes = _notes(curves)
    losses = [name for name in curves.names if not describe(name).is_percent]
    if losses:
        notes += page.beyond_axis(axes[0], Curves(curves.request, losses).finite)
    things, keys, style = _quantities(curves), list[Line2D](), curves.request.style
    if curves.several:
        surfaces = curves.request.surfaces
        labels = [words.named(s, request) + _aside(s, curves) for s in surfaces]
        things = panel.entries(labels, page.colors(style, len(surfaces)))
        keys = panel.splits(curves.names, style.ink, DOTTED)
    if len(keys) == 1:  # of one split alone the axis says which
        keys = []
    panel.finish(axes, sides, request, [*things, *keys], notes, keys=len(keys))


def _quantities(curves: Curves) -> list[Line2D]:
    """Return the legend's entries of one surface: for each quantity, or each split."""
    handles: dict[str, Line2D] = {}
    for name in curves.names:
        label = describe(name).label.replace(" (%)", "").replace("training", "train")
        if curves.repeats > 1 and len(curves.names) > 1:  # a colour is a split, in both panels
            label = label.partition(" ")[0]
        dashes: Any = DOTTED if is_test(name) else "solid"
        color = curves.color(0, name)
        handles.setdefault(label, Line2D([], [], label=label, color=color, linestyle=dashes))
    return list(handles.values())


def _aside(surface: Surface, curves: Curves) -> str:
    """Return what a legend adds to a surface's name: its barrier, else the errors of its minima."""
    for name in LOSSES:
        barrier = surface.attributes.get(f"{name}_barrier")
        if barrier is not None and name in curves.names:
            return f" (barrier {float(barrier):.2g})"
    errors = "" if curves.request.look.subtitle == "" else _errors(surface)
    return f" ({errors})" if errors else ""


def _errors(surface: Surface) -> str:
    """Return the test error at the centre, and at the minimum that a line leads to."""
    error = cells.error_at(surface)
    text = "" if error is None else f"{error:.2f} %"
    for end, _ in surface.marked_minima:
        if text and (error_at_end := cells.error_at(surface, end)) is not None:
            text += f" \N{RIGHTWARDS ARROW} {error_at_end:.2f} %"
    return text


def _notes(curves: Curves) -> list[str]:
    lines, surfaces = [], curves.request.surfaces
    for index, surface in enumerate(surfaces):
        names = [name for i, name in curves.of if i == index]
        counts = cells.tally(surface.status, [surface.quantities[name] for name in names])
        shown = "joined over" if curves.of[index, names[0]].repeats == 1 else ""
        about = page.about_cells(counts, hatched=shown, bad="gaps")
        lines += [panel.lead(surface.name, surfaces) + line for line in about]
    if curves.repeats > 1:
        both = len({is_test(name) for name in curves.names}) > 1
        of_test = "; of test the median" if curves.several and both else ""
        lines.append(f"{curves.repeats} repeats: median in bold, band from 25 % to 75 %{of_test}")
    return lines
