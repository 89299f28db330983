"""Planes seen from above: contour lines, filled contours, heat maps, and paths in them.

Shape suffixes: B betas, A alphas.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
from matplotlib import colormaps, patheffects
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lsengine.errors import UsageError
from lsengine.render import cells, labels, page, paths, scales
from lsengine.render.cells import Plane
from lsengine.render.quantities import Quantity, describe
from lsengine.render.request import Request
from lsengine.render.scales import Scale
from lsengine.render.styles import Style

Painter = Callable[[Axes, Plane, Scale, Style], None]

WIDEST = 4.0  # axes whose ranges differ by more are not drawn at one scale


def draw(request: Request) -> Figure:
    """Draw every surface of the request from above, on one scale.

    Raises:
        UsageError: If a surface has nothing that this kind could draw.
    """
    assert request.quantity is not None  # only curves do without
    quantity = describe(request.quantity)
    whole = [cells.plane(surface, quantity) for surface in request.surfaces]
    planes = whole if request.kind == "heatmap" else [cells.joined(p) for p in whole]
    for surface, plane in zip(request.surfaces, planes, strict=True):
        check(surface.source, plane, request)
    scale = common_scale(planes, quantity, request)
    paint: Painter = _PAINTERS[request.kind]
    ratio = height_by_width(planes[0], request.kind)
    figure, axes = page.sheet(len(planes), request.style, ratio)
    for panel, plane, surface in zip(axes, planes, request.surfaces, strict=True):
        frame(panel, plane, request)
        if scale is not None:
            paint(panel, plane, scale, request.style)
        if request.kind == "trajectory":
            paths.add(panel, surface, request.style)
        else:
            mark_cells(panel, plane, quantity, request.style)
            mark_minima(panel, surface.other_minima, request.style)
        page.caption(panel, surface)
        about = paths.notes(surface) if request.kind == "trajectory" else []
        page.note(panel, about + _notes(plane, quantity, scale, request), drop(panel))
    page.outer_labels(axes, page.columns_for(len(axes)))
    if scale is not None and request.kind != "contour":
        most = round(3 + 8 * min(ratio, 1.0))  # numbers that have room beside the bar
        colors = mappable(request.kind, scale, request.style)
        page.bar(figure, colors, axes, scale, quantity, most=most)
    page.settle(figure)
    if request.kind == "trajectory":
        for panel, surface in zip(axes, request.surfaces, strict=True):
            paths.finish(panel, surface, request.style)
    if scale is not None and request.kind == "contour":
        for panel, surface in zip(axes, request.surfaces, strict=True):
            minima = surface.other_minima
            labels.place(panel, scale, ((0.0, 0.0), *minima) if minima else ())
    return figure


def common_scale(planes: list[Plane], quantity: Quantity, request: Request) -> Scale | None:
    """Return one scale for all planes, or None where no cell has a value to scale."""
    values = np.concatenate([plane.finite for plane in planes])
    if not values.size:
        return None
    return scales.choose(values, quantity, request.scale, request.levels, request.limits)


def check(source: str, plane: Plane, request: Request) -> None:
    """Refuse what contours and 3D surfaces cannot show; a heat map shows everything.

    Raises:
        UsageError: If fewer than 2 x 2 cells, or no finite one, are there.
    """
    if request.kind == "heatmap" or (request.kind == "trajectory" and not plane.finite.size):
        return
    rows, columns = plane.values.shape
    if page.is_tiny(plane.values):
        raise UsageError(
            f"{source}: has {columns} x {rows} cells (alpha x beta), but kind "
            f"{request.kind!r} joins at least 2 x 2; use --as heatmap"
        )
    finite_BA = np.isfinite(plane.values)
    joins = sum(
        finite_BA[b : rows - 1 + b, a : columns - 1 + a].astype(int) for a in (0, 1) for b in (0, 1)
    )
    if not (np.asarray(joins) >= 3).any():
        counts = plane.tally
        missing = f"{counts.missing:,} missing" if counts.missing else ""
        reasons = ", ".join(words for words in (missing, counts.bad_text()) if words)
        raise UsageError(
            f"{source}: {request.quantity} has no neighbouring finite cells to join "
            f"({reasons} of {counts.cells:,} cells); use --as heatmap, which shows each cell"
        )


def height_by_width(plane: Plane, kind: str) -> float:
    """Return height by width of a panel."""
    width, height = _extent(plane, kind)
    if min(plane.values.shape) == 1 < max(plane.values.shape):
        return 0.3 if plane.values.shape[0] == 1 else 1.0
    return float(np.clip(height / width, 1 / WIDEST, 1.5)) if _to_scale(plane, kind) else 0.8


def _extent(plane: Plane, kind: str) -> tuple[float, float]:
    left, right, bottom, top = _borders(plane, kind)
    return right - left, top - bottom


def _borders(plane: Plane, kind: str) -> tuple[float, float, float, float]:
    x, y = plane.whole
    if kind == "heatmap":
        x, y = cells.edges(x, y), cells.edges(y, x)
    return float(x[0]), float(x[-1]), float(y[0]), float(y[-1])


def _to_scale(plane: Plane, kind: str) -> bool:
    width, height = _extent(plane, kind)
    return 1 / WIDEST <= height / width <= WIDEST


def frame(axes: Axes, plane: Plane, request: Request) -> None:
    """Set limits, aspect and labels, and hatch what has not been computed."""
    left, right, bottom, top = _borders(plane, request.kind)
    axes.set(xlim=(left, right), ylim=(bottom, top), xlabel=r"$\alpha$", ylabel=r"$\beta$")
    axes.set_aspect("equal" if _to_scale(plane, request.kind) else "auto")
    axes.locator_params(nbins=5, min_n_ticks=2)
    for name, values in (("x", plane.alpha), ("y", plane.beta)):
        if values.size == 1:
            axes.set(**{f"{name}ticks": values})
    style = request.style
    if plane.tally.missing and (plane.finite.size or request.kind != "trajectory"):
        _area(axes, (left, right, bottom, top), 0.0, hatch="/////", edgecolor=style.faint)
        if plane.coarse:  # inside, the cut is complete; hatching would say otherwise
            inner = plane.alpha[[0, -1]], plane.beta[[0, -1]]
            _area(axes, (*inner[0], *inner[1]), 0.1, facecolor=style.ground)
        elif request.kind == "contour":  # lines leave the ground open: clear it at the cells
            _flat(axes, plane, ~plane.missing, style.ground, 0.2)
    if plane.bad.any():
        _flat(axes, plane, plane.bad, style.bad, 0.3)


def _area(
    axes: Axes, borders: tuple[float, float, float, float], zorder: float, **look: Any
) -> None:
    left, right, bottom, top = borders
    plain: dict[str, Any] = {"facecolor": "none", "linewidth": 0, "zorder": zorder}
    axes.add_patch(Rectangle((left, bottom), right - left, top - bottom, **{**plain, **look}))


def _flat(axes: Axes, plane: Plane, where_BA: cells.Mask, color: str, zorder: float) -> None:
    limits = axes.get_xlim(), axes.get_ylim()
    x, y = cells.edges(plane.alpha, plane.beta), cells.edges(plane.beta, plane.alpha)
    ones = np.ma.masked_array(np.ones(where_BA.shape), mask=~where_BA)
    axes.pcolormesh(x, y, ones, cmap=ListedColormap([color]), zorder=zorder, rasterized=True)
    axes.set(xlim=limits[0], ylim=limits[1])


def _masked(plane: Plane, scale: Scale) -> np.ma.MaskedArray[Any, np.dtype[np.float64]]:
    return np.ma.masked_invalid(scale.forward(plane.values))


def _lines(axes: Axes, plane: Plane, scale: Scale, style: Style) -> None:
    z_BA = _masked(plane, scale)
    levels = scale.forward(scale.levels)
    levels = levels[(levels > z_BA.min()) & (levels < z_BA.max())]
    if scale.constant or not levels.size:
        return
    low, high = style.line_range
    position = Normalize(*scale.span)(levels)
    colors = colormaps[style.colormap](low + (high - low) * np.clip(position, 0, 1))
    axes.contour(plane.alpha, plane.beta, z_BA, levels=levels, colors=colors, linewidths=1.0)


def _filled(axes: Axes, plane: Plane, scale: Scale, style: Style) -> None:
    z_BA, levels = _masked(plane, scale), scale.forward(scale.levels)
    made = mappable("filled", scale, style)
    axes.contourf(
        plane.alpha,
        plane.beta,
        z_BA,
        levels=levels,
        cmap=made.get_cmap(),
        norm=made.norm,
        extend=scale.extend,
        zorder=0.5,
    )
    inside = levels[(levels > z_BA.min()) & (levels < z_BA.max())]
    if inside.size and not scale.constant:
        axes.contour(
            *(plane.alpha, plane.beta, z_BA),
            levels=inside,
            colors="k",
            linestyles="solid",  # else levels whose logarithm is negative are dashed
            linewidths=0.3,
            alpha=0.55,
        )


def heatmap(axes: Axes, plane: Plane, scale: Scale, style: Style) -> None:
    """Colour every cell that has a value."""
    made = mappable("heatmap", scale, style)
    axes.pcolormesh(
        cells.edges(plane.alpha, plane.beta),
        cells.edges(plane.beta, plane.alpha),
        _masked(plane, scale),
        cmap=made.get_cmap(),
        norm=Normalize(*scale.span),
        rasterized=True,
        zorder=0.5,
    )


_PAINTERS: dict[str, Painter] = {
    "contour": _lines,
    "filled": _filled,
    "trajectory": _filled,
    "heatmap": heatmap,
}


def mappable(kind: str, scale: Scale, style: Style) -> ScalarMappable:
    """Return the colours of a scale: bands for filled contours, a ramp for heat maps."""
    colors: Colormap = colormaps[style.colormap]
    if kind in ("filled", "trajectory"):
        norm: Normalize = BoundaryNorm(scale.forward(scale.levels), colors.N, extend=scale.extend)
        return ScalarMappable(norm, colors)
    made = ScalarMappable(Normalize(*scale.span), colors.with_extremes(bad=(0, 0, 0, 0)))
    cast(Any, made.cmap).colorbar_extend = scale.extend  # typed as a flag, is a word
    return made


def mark_cells(axes: Axes, plane: Plane, quantity: Quantity, style: Style) -> None:
    """Mark the centre with a cross and the best cell with a ring."""
    if _is_inside(axes, (0.0, 0.0)):
        _mark(axes, (0.0, 0.0), "+", 5.0, style)
    best = plane.best(quantity.best)
    if best is not None and plane.finite.max() > plane.finite.min():
        _mark(axes, best[:2], "o", 8.5, style)


def mark_minima(axes: Axes, minima: Sequence[tuple[float, float]], style: Style) -> None:
    """Mark the other minima that the directions lead to, and name them and the centre."""
    named = zip(minima, page.ordinal_minima(len(minima)), strict=True)
    shown = [(at, name) for at, name in named if _is_inside(axes, at)]
    for at, _ in shown:
        _mark(axes, at, "D", 5.0, style)
    if not minima:
        return
    size = float(axes.xaxis.label.get_fontsize()) * 0.82
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    for (x, y), name in [((0.0, 0.0), "centre"), *shown] if _is_inside(axes, (0, 0)) else shown:
        rightwards = (x - left) < 0.62 * (right - left)
        upwards = (y - bottom) < 0.85 * (top - bottom)
        text = axes.annotate(
            name,
            (x, y),
            xytext=(5.0 if rightwards else -5.0, 5.0 if upwards else -5.0),
            textcoords="offset points",
            ha="left" if rightwards else "right",
            va="bottom" if upwards else "top",
            fontsize=size,
            color=style.ink,
            zorder=6,
        )
        text.set_path_effects([patheffects.withStroke(linewidth=2.0, foreground=style.ground)])


def _is_inside(axes: Axes, at: tuple[float, float]) -> bool:
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    return bool(left <= at[0] <= right and bottom <= at[1] <= top)


def _mark(axes: Axes, at: tuple[float, float], marker: str, size: float, style: Style) -> None:
    """Draw a thin open mark over a wider one in the ground's colour, to be seen on any."""
    for width, color in ((2.4, style.ground), (1.1, style.ink)):
        look: dict[str, Any] = {"marker": marker, "markersize": size, "linestyle": "none"}
        look |= {"markerfacecolor": "none", "markeredgecolor": color, "clip_on": False}
        axes.plot(*at, markeredgewidth=width, zorder=5, **look)


def drop(axes: Axes) -> float:
    """Return points from the axes to below the tick labels and the axis label."""
    return float(axes.xaxis.label.get_fontsize()) * 2.9 + 4.0


def _notes(plane: Plane, quantity: Quantity, scale: Scale | None, request: Request) -> list[str]:
    """Return what a reader must know to take the picture for what it is."""
    lines = [f"lines of equal {quantity.label}"] if request.kind == "contour" else []
    best = plane.best(quantity.best) if request.kind != "trajectory" else None
    if best is not None and scale is not None:
        value = f"{best[2]:.4g}" if abs(best[2]) < 1e4 else scales.power_text(best[2])
        if scale.constant or plane.finite.max() == plane.finite.min():
            lines.append(f"constant: every drawn cell is {value}")
        else:
            word = {"low": "lowest", "high": "highest"}[quantity.best]
            unit = " %" if quantity.is_percent else ""
            lines.append(f"+ centre, \N{WHITE CIRCLE} {word} cell, {value}{unit}")
    hatched = plane.coarse or "hatched"
    lines += page.about_cells(plane.tally, hatched=hatched, bad="grey")
    if not _to_scale(plane, request.kind):
        lines.append("axes not to one scale")
    return lines + (page.about_clipping(plane.finite, scale) if scale else [])
