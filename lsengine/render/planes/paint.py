"""What lies in a panel of a plane: colours, lines of equal value, hatches and marks.

Shape suffixes: B betas, A alphas.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, Colormap, ListedColormap, Normalize
from matplotlib.patches import Rectangle

from lsengine.render.page import page
from lsengine.render.page.scales import Scale
from lsengine.render.style import Style
from lsengine.surface import Surface, cells
from lsengine.surface.cells import Plane
from lsengine.surface.quantities import Quantity

Painting = Callable[[cells.Floats], cells.Floats]  # from scaled levels to their colours
Borders = tuple[float, float, float, float]
NOT_COMPUTED = "/////"  # hatch
STAND_IN_OPACITY = 0.4


def cell_edges(plane: Plane) -> tuple[cells.Floats, cells.Floats]:
    """Return the borders between cells along alpha and beta; (A + 1,), (B + 1,)."""
    return cells.edges(plane.alpha, plane.beta), cells.edges(plane.beta, plane.alpha)


def color_cells(
    axes: Axes, plane: Plane, values_BA: Any, colors: ScalarMappable, **look: Any
) -> None:
    """Colour cells, each as a whole; masked ones stay open."""
    look |= {"cmap": colors.get_cmap(), "norm": colors.norm}
    axes.pcolormesh(*cell_edges(plane), values_BA, rasterized=True, **look)


def heatmap(axes: Axes, plane: Plane, scale: Scale, style: Style) -> None:
    """Colour every cell that has a value."""
    color_cells(axes, plane, _scaled(plane, scale), page.ramp(scale, style), zorder=0.5)


def stand_in(axes: Axes, plane: Plane, scale: Scale, style: Style) -> None:
    """Colour every cell; those not computed yet like the nearest one, lighter and hatched."""
    limits = axes.get_xlim(), axes.get_ylim()
    filled_BA = np.ma.masked_where(~plane.missing, scale.forward(plane.filled))
    colors = page.ramp(scale, style)
    color_cells(axes, plane, filled_BA, colors, alpha=STAND_IN_OPACITY, zorder=0.4)
    x, y = cell_edges(plane)
    borders = float(x[0]), float(x[-1]), float(y[0]), float(y[-1])
    area(axes, borders, zorder=0.45, hatch=NOT_COMPUTED, edgecolor=style.ground)
    heatmap(axes, plane, scale, style)
    if plane.bad.any():
        flat(axes, plane, plane.bad, style.bad, zorder=0.5)
    axes.set(xlim=limits[0], ylim=limits[1])


def area(axes: Axes, borders: Borders, **look: Any) -> None:
    """Fill or hatch a rectangle: left, right, bottom and top."""
    left, right, bottom, top = borders
    plain = {"facecolor": "none", "linewidth": 0}
    axes.add_patch(Rectangle((left, bottom), right - left, top - bottom, **{**plain, **look}))


def flat(axes: Axes, plane: Plane, where_BA: cells.Mask, color: str, *, zorder: float) -> None:
    """Give some cells one colour."""
    limits = axes.get_xlim(), axes.get_ylim()
    ones = np.ma.masked_array(np.ones(where_BA.shape), mask=~where_BA)
    color_cells(axes, plane, ones, ScalarMappable(cmap=ListedColormap([color])), zorder=zorder)
    axes.set(xlim=limits[0], ylim=limits[1])


def contour_lines(
    axes: Axes, plane: Plane, scale: Scale, colors: str | Painting, **look: Any
) -> None:
    """Draw the lines of all levels that a plane has values on both sides of.

    ``colors`` is one for all, or returns them for scaled levels.  ``look`` goes to
    ``Axes.contour``, but for ``path_effects`` of the lines.
    """
    scaled_BA, levels = _scaled(plane, scale), scale.forward(scale.levels)
    levels = levels[(levels > scaled_BA.min()) & (levels < scaled_BA.max())]
    if scale.constant or not levels.size:
        return
    effects = look.pop("path_effects", None)
    chosen = colors if isinstance(colors, str) else colors(levels)
    lines = axes.contour(plane.alpha, plane.beta, scaled_BA, levels=levels, colors=chosen, **look)
    if effects is not None:
        lines.set_path_effects(effects)


def colored_lines(axes: Axes, plane: Plane, scale: Scale, style: Style) -> None:
    """Draw contour lines in the colours of their levels, on open ground."""
    low, high = style.line_range

    def colors(levels: cells.Floats) -> cells.Floats:
        position = Normalize(*scale.span)(levels)
        return np.asarray(colormaps[style.colormap](low + (high - low) * np.clip(position, 0, 1)))

    contour_lines(axes, plane, scale, colors, linewidths=1.0)


def thin_lines(axes: Axes, plane: Plane, scale: Scale) -> None:
    """Draw contour lines over colours."""
    # Levels whose logarithm is negative would be dashed.
    contour_lines(axes, plane, scale, "k", linestyles="solid", linewidths=0.3, alpha=0.55)


def filled_contours(axes: Axes, plane: Plane, scale: Scale, style: Style) -> None:
    """Draw the areas between levels, and thin lines between them."""
    bands = scalar_mappable("filled", scale, style)
    levels, scaled_BA = scale.forward(scale.levels), _scaled(plane, scale)
    look: dict[str, Any] = {"cmap": bands.get_cmap(), "norm": bands.norm, "zorder": 0.5}
    axes.contourf(plane.alpha, plane.beta, scaled_BA, levels=levels, extend=scale.extend, **look)
    thin_lines(axes, plane, scale)


PAINTERS: dict[str, Callable[[Axes, Plane, Scale, Style], None]] = {
    "contour": colored_lines,
    "filled": filled_contours,
    "trajectory": filled_contours,
    "heatmap": heatmap,
}


def scalar_mappable(kind: str, scale: Scale, style: Style) -> ScalarMappable:
    """Return the colours of a scale: bands for filled contours, a ramp for heat maps."""
    if kind not in ("filled", "trajectory"):
        return page.ramp(scale, style)
    colors: Colormap = colormaps[style.colormap]
    levels = scale.forward(scale.levels)
    return ScalarMappable(BoundaryNorm(levels, colors.N, extend=scale.extend), colors)


def _scaled(plane: Plane, scale: Scale) -> np.ma.MaskedArray[Any, np.dtype[np.float64]]:
    return np.ma.masked_invalid(scale.forward(plane.values))


def mark_cells(axes: Axes, plane: Plane, quantity: Quantity, style: Style) -> None:
    """Mark the centre with a cross and the best cell with a ring, if the style marks anything."""
    if not style.marks:
        return
    if _is_inside(axes, (0.0, 0.0)):
        _mark(axes, (0.0, 0.0), "+", 5.0, style)
    best = plane.best(quantity.best)
    if best is not None and plane.finite.max() > plane.finite.min():
        _mark(axes, best[:2], "o", 8.5, style)


def mark_minima(axes: Axes, surface: Surface, style: Style) -> None:
    """Mark the other minima that the directions lead to, and name them and the centre."""
    if not (style.marks and surface.marked_minima):
        return
    points = page.marked_points(surface).items()
    shown = {name: at for name, at in points if _is_inside(axes, at)}
    for name, at in shown.items():
        if name != "centre":
            _mark(axes, at, "D", 5.0, style)
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    for name, (x, y) in shown.items():
        rightwards = (x - left) < 0.62 * (right - left)
        upwards = (y - bottom) < 0.85 * (top - bottom)
        beside = (5.0 if rightwards else -5.0, 5.0 if upwards else -5.0)
        ha, va = "left" if rightwards else "right", "bottom" if upwards else "top"
        page.name_point(axes, name, (x, y), beside, style, ha=ha, va=va, zorder=6)


def _is_inside(axes: Axes, at: tuple[float, float]) -> bool:
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    return bool(left <= at[0] <= right and bottom <= at[1] <= top)


def _mark(axes: Axes, at: tuple[float, float], marker: str, size: float, style: Style) -> None:
    """Draw an open mark that can be seen on any ground.

    The thin outlines are above all wide ones, so that marks close by do not blot each other out.
    """
    for look, zorder in zip(page.mark_looks(style, marker, size), (5.0, 5.1), strict=True):
        axes.plot(*at, zorder=zorder, clip_on=False, **look)
