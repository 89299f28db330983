"""Planes seen from above: contour lines, filled contours, heat maps, and paths in them.

Shape suffixes: B betas, A alphas.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
from matplotlib import colormaps, patheffects
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lsengine.errors import NothingToDraw
from lsengine.render import page
from lsengine.render.page import contour_labels, scales
from lsengine.render.page.scales import Scale
from lsengine.render.planes import curve_overlay, trajectory
from lsengine.render.request import Request
from lsengine.render.style.styles import Style
from lsengine.surface import cells
from lsengine.surface.cells import Plane
from lsengine.surface.quantities import Quantity, describe

Painter = Callable[[Axes, Plane, Scale, Style], None]
STANDS_IN = "lighter: the nearest cell's value stands in"
FAINT = 0.4  # opacity of what stands in for a cell
WIDEST = 3.0  # axes whose ranges differ by more are not drawn at one scale
FREE = 0.8  # height by width of their panels
ALIKE = 1.3  # nor are those of several panels whose shapes differ by more
NOT_TO_SCALE = "axes not to one scale"
_ONCE = ("red: ", NOT_TO_SCALE)  # are said below the first panel only


def draw(request: Request) -> Figure:
    """Draw every surface of the request from above, on one scale.

    Raises:
        UsageError: If a surface has nothing that this kind could draw.
    """
    figure, walks = compose(request)
    for walk in walks:
        walk.finish()
    return figure


def compose(request: Request) -> tuple[Figure, list[trajectory.Walk]]:
    """Draw all but what belongs to whole trajectories only; return them as far as drawn.

    Raises:
        UsageError: As `draw`.
    """
    assert request.quantity is not None  # only curves do without
    quantity = describe(request.quantity)
    whole = [cells.plane(surface, quantity) for surface in request.surfaces]
    joined = whole if request.kind == "heatmap" else [cells.joined(p) for p in whole]
    pairs = zip(whole, joined, strict=True)
    planes = [every if _fills(every, request) else part for every, part in pairs]
    for surface, plane in zip(request.surfaces, planes, strict=True):
        check(surface.source, plane, request)
    scale = common_scale(planes, quantity, request)
    paint: Painter = _PAINTERS[request.kind]
    to_scale = alike(planes, request.kind)
    ratio = height_by_width(planes[0], request.kind) if to_scale else FREE
    figure, axes = page.sheet(len(planes), request.style, ratio)
    narrow = page.columns_for(len(axes)) > 2
    walks, said = [], set[str]()
    sorted_ = zip(axes, planes, joined, request.surfaces, strict=True)
    for panel, plane, part, surface in sorted_:
        frame(panel, plane, request, to_scale=to_scale)
        has_lines = request.kind != "heatmap" and part.joins
        if scale is not None and _fills(plane, request):
            _stand_in(panel, plane, scale, request.style)
            if has_lines:
                _thin_lines(panel, part, scale)
        elif scale is not None:
            paint(panel, plane, scale, request.style)
        if request.kind == "trajectory":
            walks.append(trajectory.add(panel, surface, request.style))
        elif surface.curve is not None:
            curve_overlay.add(panel, surface.curve, request.style)
        else:
            mark_cells(panel, plane, quantity, request.style)
            mark_minima(panel, surface.marked_minima, request.style)
        page.caption(panel, surface)
        about = trajectory.notes(surface, narrow=narrow) if request.kind == "trajectory" else []
        is_plain = surface.curve is None and request.kind != "trajectory"
        if surface.curve is not None and request.kind != "trajectory":
            about = curve_overlay.notes(surface.curve)
        about += _notes(plane, quantity, scale, request, with_marks=is_plain)
        if has_lines and part is not plane:
            about.append(f"lines {part.coarse}")
        about += [] if to_scale else [NOT_TO_SCALE]
        page.note(panel, [line for line in about if line not in said], drop(panel))
        said |= {line for line in about if line.startswith(_ONCE)}
        if narrow and request.kind == "trajectory":
            trajectory.shrink(panel)
    page.outer_labels(axes, page.columns_for(len(axes)))
    fills = any(_fills(plane, request) for plane in planes)
    if scale is not None and (fills or request.kind != "contour"):
        most = round(3 + 8 * min(ratio, 1.0))  # numbers that have room beside the bar
        colors = scalar_mappable("heatmap" if fills else request.kind, scale, request.style)
        page.bar(figure, colors, axes, scale, quantity, most=most)
    page.settle(figure)
    for panel, surface in zip(axes, request.surfaces, strict=True):
        marks = ((0.0, 0.0), *surface.marked_minima) if surface.marked_minima else ()
        if surface.curve is not None and request.kind != "trajectory":
            curve_overlay.finish(panel, surface.curve, request.style)
            marks = tuple((float(x), float(y)) for x, y in surface.curve.controls)
        if scale is not None and request.kind == "contour":
            contour_labels.label_contours(panel, scale, marks)
    return figure, walks


def common_scale(planes: list[Plane], quantity: Quantity, request: Request) -> Scale | None:
    """Return one scale for all planes, or None where no cell has a value to scale."""
    values = np.concatenate([plane.finite for plane in planes])
    if not values.size:
        return None
    return scales.choose(values, quantity, request.scale, request.levels, request.limits)


def check(source: str, plane: Plane, request: Request) -> None:
    """Refuse what contours and 3D surfaces cannot show; a heat map shows everything.

    Raises:
        NothingToDraw: If no finite cells are there, or none that have such neighbours.
    """
    if request.kind == "heatmap" or (request.kind == "trajectory" and not plane.finite.size):
        return
    if not plane.finite.size or not _joins(plane, request):
        square = "square of four" if request.kind == "surface" else "three"
        raise NothingToDraw(
            f"{source}: {request.quantity} has no {square} neighbouring finite cells to join "
            f"({plane.tally.reasons()}); use --as heatmap, which shows each cell"
        )


def _joins(plane: Plane, request: Request) -> bool:
    """Whether a plane with a finite cell can be joined, by landscapes to whole squares only."""
    if request.kind == "surface":
        return (replace(plane, values=plane.filled) if request.filled else plane).has_square
    return plane.joins or _fills(plane, request)


def _fills(plane: Plane, request: Request) -> bool:
    """Whether cells that are not computed yet are painted, too."""
    return request.filled and bool(plane.missing.any())


def height_by_width(plane: Plane, kind: str) -> float:
    """Return height by width of a panel."""
    width, height = _extent(plane, kind)
    if min(plane.values.shape) == 1 < max(plane.values.shape):
        return 0.3 if plane.values.shape[0] == 1 else 1.0
    return float(np.clip(height / width, 1 / WIDEST, 1.5)) if alike([plane], kind) else FREE


def alike(planes: Sequence[Plane], kind: str) -> bool:
    """Whether both axes can have one scale in panels of one shape."""
    extents = [_extent(plane, kind) for plane in planes]
    ratios = [height / width if width else np.inf for width, height in extents]
    to_scale = all(1 / WIDEST <= ratio <= WIDEST for ratio in ratios)
    return to_scale and max(ratios) <= ALIKE * min(ratios)


def _extent(plane: Plane, kind: str) -> tuple[float, float]:
    left, right, bottom, top = _borders(plane, kind)
    return right - left, top - bottom


def _borders(plane: Plane, kind: str) -> tuple[float, float, float, float]:
    x, y = plane.whole
    if kind == "heatmap":
        x, y = cells.edges(x, y), cells.edges(y, x)
    return float(x[0]), float(x[-1]), float(y[0]), float(y[-1])


def frame(axes: Axes, plane: Plane, request: Request, *, to_scale: bool) -> None:
    """Set limits, aspect and labels, and hatch what has not been computed."""
    left, right, bottom, top = _borders(plane, request.kind)
    axes.set(xlim=(left, right), ylim=(bottom, top), xlabel=r"$\alpha$", ylabel=r"$\beta$")
    axes.set_aspect("equal" if to_scale else "auto")
    if not to_scale:  # the layout presses panels together only if it knows their shape
        axes.set_box_aspect(FREE)
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
    made = scalar_mappable("filled", scale, style)
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
    _thin_lines(axes, plane, scale)


def _thin_lines(axes: Axes, plane: Plane, scale: Scale) -> None:
    z_BA, levels = _masked(plane, scale), scale.forward(scale.levels)
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
    made = scalar_mappable("heatmap", scale, style)
    axes.pcolormesh(
        cells.edges(plane.alpha, plane.beta),
        cells.edges(plane.beta, plane.alpha),
        _masked(plane, scale),
        cmap=made.get_cmap(),
        norm=Normalize(*scale.span),
        rasterized=True,
        zorder=0.5,
    )


def _stand_in(axes: Axes, plane: Plane, scale: Scale, style: Style) -> None:
    """Colour every cell; those not computed yet like the nearest one, lighter and hatched."""
    limits = axes.get_xlim(), axes.get_ylim()
    x, y = cells.edges(plane.alpha, plane.beta), cells.edges(plane.beta, plane.alpha)
    axes.pcolormesh(
        *(x, y, np.ma.masked_where(~plane.missing, scale.forward(plane.filled))),
        cmap=colormaps[style.colormap],
        norm=Normalize(*scale.span),
        alpha=FAINT,
        rasterized=True,
        zorder=0.4,
    )
    borders = float(x[0]), float(x[-1]), float(y[0]), float(y[-1])
    _area(axes, borders, 0.45, hatch="/////", edgecolor=style.ground)
    heatmap(axes, plane, scale, style)
    if plane.bad.any():
        _flat(axes, plane, plane.bad, style.bad, 0.5)
    axes.set(xlim=limits[0], ylim=limits[1])


_PAINTERS: dict[str, Painter] = {
    "contour": _lines,
    "filled": _filled,
    "trajectory": _filled,
    "heatmap": heatmap,
}


def scalar_mappable(kind: str, scale: Scale, style: Style) -> ScalarMappable:
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
    """Draw a thin open mark over a wider one in the ground's colour, to be seen on any.

    The thin ones are above all wide ones, so that marks close by do not blot each other out.
    """
    for width, color, zorder in ((2.4, style.ground, 5.0), (1.1, style.ink, 5.1)):
        look: dict[str, Any] = {"marker": marker, "markersize": size, "linestyle": "none"}
        look |= {"markerfacecolor": "none", "markeredgecolor": color, "clip_on": False}
        axes.plot(*at, markeredgewidth=width, zorder=zorder, **look)


def drop(axes: Axes) -> float:
    """Return points from the axes to below the tick labels and the axis label."""
    return float(axes.xaxis.label.get_fontsize()) * 2.9 + 4.0


def _notes(
    plane: Plane, quantity: Quantity, scale: Scale | None, request: Request, *, with_marks: bool
) -> list[str]:
    """Return what a reader must know to take the picture for what it is."""
    lines = [f"lines of equal {quantity.label}"] if request.kind == "contour" else []
    best = plane.best(quantity.best) if with_marks else None
    if best is not None and scale is not None:
        value = scales.power_text(float(f"{best[2]:.4g}"))
        if scale.constant or plane.finite.max() == plane.finite.min():
            lines.append(f"constant: every drawn cell is {value}")
        else:
            word = {"low": "lowest", "high": "highest"}[quantity.best]
            unit = " %" if quantity.is_percent else ""
            lines.append(f"+ centre, \N{WHITE CIRCLE} {word} cell, {value}{unit}")
    hatched = plane.coarse or "hatched"
    if request.filled:
        hatched = STANDS_IN
    lines += page.about_cells(plane.tally, hatched=hatched, bad="grey")
    return lines + (page.about_clipping(plane.finite, scale) if scale else [])
