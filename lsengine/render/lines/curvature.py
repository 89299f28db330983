"""Curvature along one direction: eigenvalues and their ratio as lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lsengine.render import page
from lsengine.render.lines import curves
from lsengine.render.planes.curvature import SIGNS, curved_down, quantity_of, ratios, signs
from lsengine.render.request import Request
from lsengine.render.style.styles import Style
from lsengine.surface import Surface, cells
from lsengine.surface.quantities import describe


def draw(request: Request) -> Figure:
    """Draw eigenvalues and ratio along the one direction; open circles did not converge."""
    style, surfaces = request.style, [_derived(surface) for surface in request.surfaces]
    request = replace(request, surfaces=tuple(surfaces))
    panels = [["eigenvalue_max", "eigenvalue_min"], ["ratio"]]
    if request.quantity is not None:
        panels = [[request.quantity]]
    width = (style.width if len(panels) == 1 else style.wide) / len(panels)
    figure, axes = page.sheet(len(panels), style, 0.68 * min(width, style.height * 1.45) / width)
    several = len(surfaces) > 1
    colors = page.colors(style, max(len(surfaces), 2))
    for panel, names in zip(axes, panels, strict=True):
        found = {(i, n): curves.curve_of(s, n) for i, s in enumerate(surfaces) for n in names}
        for (i, name), curve in found.items():
            color = colors[i] if several else colors[int(name == "eigenvalue_min")]
            dashes = (0, (3.5, 1.6)) if several and name == "eigenvalue_min" else "solid"
            curves.line(panel, curve, color, dashes)
            _circle(panel, surfaces[i], curve, color, style)
        _finish(panel, names, found, request)
    _line_words(figure, axes, request, colors, several)
    page.settle(figure)
    return figure


def _derived(surface: Surface) -> Surface:
    """Return a curve with ratio and sign among its quantities."""
    low, high = (surface.quantities[f"eigenvalue_{end}"] for end in ("min", "max"))
    residual = surface.quantities.get("eigenvalue_min_residual", np.zeros(low.shape))
    made = {"ratio": ratios(low, high), "sign": signs(low, residual)}
    return replace(surface, quantities={**surface.quantities, **made})


def _circle(axes: Axes, surface: Surface, curve: curves.Curve, color: str, style: Style) -> None:
    if "converged" not in surface.quantities:
        return
    unsolved = curves.curve_of(surface, "converged").values == 0
    look: dict[str, Any] = {"marker": "o", "markersize": 4.0, "linestyle": "none"}
    for row, where in zip(curve.values, unsolved, strict=True):
        axes.plot(
            curve.alpha[where], row[where], **look, zorder=3,
            markerfacecolor=style.ground, markeredgecolor=color, markeredgewidth=0.9,
        )  # fmt: skip


def _finish(
    axes: Axes,
    names: Sequence[str],
    found: dict[tuple[int, str], curves.Curve],
    request: Request,
) -> None:
    label = "Hessian eigenvalue" if len(names) > 1 else quantity_of(names[0]).label
    axes.set(xlabel=r"$\alpha$", ylabel=label)
    if any(np.isfinite(curve.values).any() for curve in found.values()):
        linear = names == ["ratio"] and request.scale == "auto"
        curves.fit_scale(axes, found, replace(request, scale="linear") if linear else request)
    if names == ["sign"]:
        axes.set(ylim=(-1.4, 1.4), yticks=[-1, 0, 1], yticklabels=SIGNS)
    ends = np.concatenate([curve.alpha for curve in found.values()])
    if np.ptp(ends) > 0:
        axes.set_xlim(ends.min(), ends.max())
    low, high = axes.get_ylim()
    if low < 0 < high:
        axes.axhline(0.0, color=request.style.ink, linewidth=0.6, zorder=1)
    axes.set_axisbelow(True)
    axes.grid(True, linewidth=0.4, color=request.style.faint, alpha=0.5)
    curves.minima(axes, request)


def _line_words(
    figure: Figure, axes: list[Axes], request: Request, colors: list[str], several: bool
) -> None:
    surfaces, style = request.surfaces, request.style
    handles = []
    if several:
        handles = [
            Line2D([], [], color=color, label=page.printable(surface.name))
            for color, surface in zip(colors, surfaces, strict=False)
        ]
    if request.quantity is None:
        for name, color in zip(("eigenvalue_max", "eigenvalue_min"), colors, strict=False):
            dashes: Any = (0, (3.5, 1.6)) if several and name == "eigenvalue_min" else "solid"
            word = describe(name).label.replace("Hessian ", "")
            shown = style.ink if several else color
            handles.append(Line2D([], [], color=shown, linestyle=dashes, label=word))
    size = float(axes[0].xaxis.label.get_fontsize())
    if handles:
        keys = 2 if several and request.quantity is None else 0
        page.legend(figure, handles, size * 0.88, keys=keys)
    if not several and len(axes) == 1:
        page.caption(axes[0], surfaces[0], above=1.3 * curves.NAME * size)
    elif not several:
        figure.suptitle(page.printable(surfaces[0].name), parse_math=False)
    lines = []
    for surface in surfaces:
        said = _about_line(surface)
        lines += [f"{page.printable(surface.name)}: {line}" if several else line for line in said]
    page.note(axes[0], lines, size * 2.9 + 4.0)


def _about_line(surface: Surface) -> list[str]:
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
