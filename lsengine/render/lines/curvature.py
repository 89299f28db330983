"""Curvature along one direction: eigenvalues and their ratio as lines."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lsengine.render.lines import curves, panel
from lsengine.render.lines.curve_data import Curve, Curves, curve_of
from lsengine.render.page import page, words
from lsengine.render.planes.curvature import SIGNS, curved_down, quantity_of, ratios, signs
from lsengine.render.request import Request
from lsengine.render.style import Style
from lsengine.surface import Surface, cells
from lsengine.surface.quantities import describe

BOTH = ["eigenvalue_max", "eigenvalue_min"]


def draw(request: Request) -> Figure:
    """Draw eigenvalues and ratio along the one direction; open circles did not converge."""
    surfaces, style = tuple(_derived(surface) for surface in request.surfaces), request.style
    request = replace(request, surfaces=surfaces)
    panels = [BOTH, ["ratio"]] if request.quantity is None else [[request.quantity]]
    figure, axes = panel.sheet(len(panels), style)
    colors = page.colors(style, max(len(surfaces), 2))
    for side, names in zip(axes, panels, strict=True):
        drawn = Curves(request, names)
        for (index, name), curve in drawn.of.items():
            color = colors[index] if drawn.several else colors[int(name == BOTH[1])]
            curves.line(side, curve, color, _dashes(name, several=drawn.several))
            _circle(side, surfaces[index], curve, color, style)
        _finish(side, names, drawn)
    words.limit(axes, request)
    for side in axes:
        curves.minima(side, request)
    _write(axes, request, colors)
    return figure


def _derived(surface: Surface) -> Surface:
    """Return a curve with ratio and sign among its quantities."""
    low, high = (surface.quantities[f"eigenvalue_{end}"] for end in ("min", "max"))
    residual = surface.quantities.get("eigenvalue_min_residual", np.zeros(low.shape))
    derived = {"ratio": ratios(low, high), "sign": signs(low, residual)}
    return replace(surface, quantities={**surface.quantities, **derived})


def _dashes(name: str, *, several: bool) -> Any:
    return (0, (3.5, 1.6)) if several and name == BOTH[1] else "solid"


def _circle(axes: Axes, surface: Surface, curve: Curve, color: str, style: Style) -> None:
    if "converged" not in surface.quantities:
        return
    unsolved = curve_of(surface, "converged").values == 0
    for row, where in zip(curve.values, unsolved, strict=True):
        look: dict[str, Any] = {"markerfacecolor": style.ground, "markeredgecolor": color}
        look |= {"markersize": 4.0, "markeredgewidth": 0.9, "zorder": 3}
        axes.plot(curve.alpha[where], row[where], marker="o", linestyle="none", **look)


def _finish(axes: Axes, names: list[str], drawn: Curves) -> None:
    label = "Hessian eigenvalue" if len(names) > 1 else quantity_of(names[0]).label
    axes.set(xlabel=r"$\alpha$", ylabel=label)
    if drawn.finite.size:
        wanted = drawn.request.scale
        drawn.fit_scale(axes, "linear" if names == ["ratio"] and wanted == "auto" else wanted)
    if names == ["sign"]:
        axes.set(ylim=(-1.4, 1.4), yticks=[-1, 0, 1], yticklabels=SIGNS)
    drawn.fit_alpha(axes)
    low, high = axes.get_ylim()
    if low < 0 < high:
        axes.axhline(0.0, color=drawn.request.style.ink, linewidth=0.6, zorder=1)
    panel.grid(axes, drawn.request.style)


def _write(axes: list[Axes], request: Request, colors: list[str]) -> None:
    """Write the caption, the legend below, and what is not drawn."""
    surfaces, several = request.surfaces, len(request.surfaces) > 1
    handles = panel.entries([words.named(s, request) for s in surfaces] if several else [], colors)
    for name, color in zip(BOTH if request.quantity is None else (), colors, strict=False):
        dashes, shown = _dashes(name, several=several), request.style.ink if several else color
        word = describe(name).label.replace("Hessian ", "")
        handles.append(Line2D([], [], color=shown, linestyle=dashes, label=word))
    if not several and len(axes) == 1:
        words.caption(axes[0], surfaces[0], request)
    elif not several:
        panel.title(axes, words.named(surfaces[0], request), [], request)
    notes = [panel.lead(s.name, surfaces) + line for s in surfaces for line in _notes(s)]
    keys = 2 if several and request.quantity is None else 0
    panel.finish(axes, axes, request, handles, notes, keys=keys)


def _notes(surface: Surface) -> list[str]:
    low, high = (surface.quantities[f"eigenvalue_{end}"] for end in ("min", "max"))
    counts = cells.tally(surface.status, [low, high])
    lines = page.about_cells(counts, hatched="joined over", bad="gaps")
    undefined = int((surface.done & (high <= 0)).sum())
    if undefined:
        lines.append(curved_down(undefined))
    unsolved = surface.done & (surface.quantities.get("converged", np.ones(low.shape)) == 0)
    if unsolved.any():
        count = int(unsolved.sum())
        lines.append(f"{count:,} of {unsolved.size:,} cells not converged (open circles)")
    return lines
