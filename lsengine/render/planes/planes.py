"""Planes seen from above: contour lines, filled contours, heat maps, and paths in them.

Shape suffixes: B betas, A alphas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lsengine.errors import NothingToDraw
from lsengine.render.page import contour_labels, page, scales, words
from lsengine.render.page.scales import Scale
from lsengine.render.planes import paint, paths
from lsengine.render.request import Request
from lsengine.surface import PlaneCurve, Surface, cells
from lsengine.surface.cells import Plane
from lsengine.surface.quantities import Quantity, describe

STANDS_IN = "lighter: the nearest cell's value stands in"
WIDEST = 3.0  # axes whose ranges differ by more are not drawn at one scale
FREE = 0.8  # height by width of their panels
ALIKE = 1.3  # nor are those of several panels whose shapes differ by more
BAND = "blank beside grey, where contours end"
NOT_TO_SCALE = "axes not to one scale"
_ONCE = ("red: ", NOT_TO_SCALE)  # are said below the first panel only


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One surface of a picture, and what is drawn of it."""

    axes: Axes
    surface: Surface
    plane: Plane  # what is coloured
    joined: Plane  # what lines join: the plane, or a complete cut of it
    request: Request  # the same for all panels

    @property
    def has_path(self) -> bool:
        """Whether a trajectory is drawn over the plane."""
        return self.request.kind == "trajectory"

    @property
    def curve(self) -> PlaneCurve | None:
        """The trained curve that is drawn over the plane."""
        return None if self.has_path else self.surface.curve

    @property
    def has_lines(self) -> bool:
        """Whether there is anything that lines can join."""
        return self.request.kind != "heatmap" and self.joined.joins


def draw(request: Request) -> Figure:
    """Draw every surface of the request from above, on one scale; raises as `compose`."""
    figure, drawn = compose(request)
    for path in drawn:
        path.finish()
    return figure


def compose(request: Request) -> tuple[Figure, list[paths.DrawnPath]]:
    """Draw all but what belongs to whole trajectories only; return them as far as drawn.

    Raises:
        UsageError: If a surface has nothing that this kind could draw.
    """
    assert request.quantity is not None  # only curves do without
    quantity = describe(request.quantity)
    joined, planes = _planes(request, quantity)
    scale = common_scale(planes, quantity, request)
    to_scale = alike(planes, request.kind)
    ratio = height_by_width(planes[0], request.kind) if to_scale else FREE
    figure, axes = page.sheet(len(planes), request.style, ratio)
    panels = [
        Panel(axes=side, surface=surface, plane=plane, joined=lines_of, request=request)
        for side, surface, plane, lines_of in zip(
            axes, request.surfaces, planes, joined, strict=True
        )
    ]
    for panel in panels:
        frame(panel.axes, panel.plane, request)
        if not to_scale:
            free(panel.axes)
        if scale is not None:
            _paint(panel, scale)
    shown = [p for p in panels if p.has_path]
    drawn = [paths.add(p.axes, p.surface, request.style, cut=request.is_cut) for p in shown]
    for panel in panels:
        _mark(panel, quantity)
    _write(panels, quantity, scale, to_scale=to_scale)
    page.outer_labels(axes, page.columns_for(len(axes)))
    fills = any(_fills(plane, request) for plane in planes)
    if scale is not None and (fills or request.kind != "contour"):
        most = round(3 + 8 * min(ratio, 1.0))  # numbers that have room beside the bar
        colors = paint.scalar_mappable("heatmap" if fills else request.kind, scale, request.style)
        page.bar(figure, colors, axes, scale, quantity, most=most)
    words.finish(figure, axes, request)
    for panel in panels:
        _label(panel, scale)
    return figure, drawn


def _planes(request: Request, quantity: Quantity) -> tuple[list[Plane], list[Plane]]:
    """Return of each surface what lines can join, and what is coloured."""
    complete = [cells.plane(surface, quantity) for surface in request.surfaces]
    joined = complete if request.kind == "heatmap" else [cells.joined(p) for p in complete]
    pairs = zip(complete, joined, strict=True)
    planes = [plane if _fills(plane, request) else cut for plane, cut in pairs]
    for surface, plane in zip(request.surfaces, planes, strict=True):
        check(surface.source, plane, request)
    return joined, planes


def _paint(panel: Panel, scale: Scale) -> None:
    """Colour the cells, or draw their lines."""
    if not _fills(panel.plane, panel.request):
        kind, style = panel.request.kind, panel.request.style
        paint.PAINTERS[kind](panel.axes, panel.plane, scale, style)
        return
    paint.stand_in(panel.axes, panel.plane, scale, panel.request.style)
    if panel.has_lines:
        paint.thin_lines(panel.axes, panel.joined, scale)


def _mark(panel: Panel, quantity: Quantity) -> None:
    """Draw a trained curve, or mark the centre and the best cell."""
    style = panel.request.style
    if panel.curve is not None:
        paths.add_curve(panel.axes, panel.curve, style, cut=panel.request.is_cut)
    elif not panel.has_path:
        paint.mark_cells(panel.axes, panel.plane, quantity, style)
        paint.mark_minima(panel.axes, panel.surface, style)


def _write(panels: list[Panel], quantity: Quantity, scale: Scale | None, *, to_scale: bool) -> None:
    """Write captions and notes, each sentence on all panels below the first only."""
    narrow, once = page.columns_for(len(panels)) > 2, set[str]()
    for panel in panels:
        words.caption(panel.axes, panel.surface, panel.request)
        lines = _notes(panel, quantity, scale, narrow=narrow)
        lines += [] if to_scale else [NOT_TO_SCALE]
        words.note(panel.axes, [line for line in lines if line not in once])
        once |= {line for line in lines if line.startswith(_ONCE)}
        if narrow and panel.has_path:
            paths.shrink(panel.axes)


def _label(panel: Panel, scale: Scale | None) -> None:
    """Write what must keep off everything else; call when the page is settled."""
    minima = panel.surface.marked_minima
    marks = ((0.0, 0.0), *minima) if minima else ()
    if panel.curve is not None:
        paths.finish_curve(panel.axes, panel.curve, panel.request.style)
        marks = tuple((float(x), float(y)) for x, y in panel.curve.controls)
    if scale is not None and panel.request.kind == "contour":
        contour_labels.label_contours(panel.axes, scale, marks)


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
    """Whether cells that are not computed yet are coloured, too."""
    return request.filled and bool(plane.missing.any())


def height_by_width(plane: Plane, kind: str) -> float:
    """Return height by width of a panel."""
    if min(plane.values.shape) == 1 < max(plane.values.shape):
        return 0.3 if plane.values.shape[0] == 1 else 1.0
    return float(np.clip(_ratio(plane, kind), 1 / WIDEST, 1.5)) if alike([plane], kind) else FREE


def alike(planes: Sequence[Plane], kind: str) -> bool:
    """Whether both axes can have one scale in panels of one shape."""
    ratios = [_ratio(plane, kind) for plane in planes]
    to_scale = all(1 / WIDEST <= ratio <= WIDEST for ratio in ratios)
    return to_scale and max(ratios) <= ALIKE * min(ratios)


def _ratio(plane: Plane, kind: str) -> float:
    left, right, bottom, top = _borders(plane, kind)
    return (top - bottom) / (right - left) if right > left else np.inf


def _borders(plane: Plane, kind: str) -> paint.Borders:
    x, y = plane.whole
    if kind == "heatmap":
        x, y = cells.edges(x, y), cells.edges(y, x)
    return float(x[0]), float(x[-1]), float(y[0]), float(y[-1])


def free(axes: Axes) -> None:
    """Let both axes have scales of their own, in a panel of one shape."""
    axes.set_aspect("auto")
    axes.set_box_aspect(FREE)  # the layout presses panels together only if it knows their shape


def frame(axes: Axes, plane: Plane, request: Request) -> None:
    """Set limits and labels, both axes to one scale, and hatch what has not been computed."""
    left, right, bottom, top = borders = _borders(plane, request.kind)
    axes.set(xlim=(left, right), ylim=(bottom, top), xlabel=r"$\alpha$", ylabel=r"$\beta$")
    axes.set_aspect("equal")
    axes.locator_params(nbins=5, min_n_ticks=2)
    for name, values in (("x", plane.alpha), ("y", plane.beta)):
        if values.size == 1:
            axes.set(**{f"{name}ticks": values})
    style = request.style
    if plane.tally.missing and (plane.finite.size or request.kind != "trajectory"):
        paint.area(axes, borders, zorder=0.0, hatch=paint.NOT_COMPUTED, edgecolor=style.faint)
        if plane.coarse:  # inside, the cut is complete; hatching would say otherwise
            inner = (*plane.alpha[[0, -1]], *plane.beta[[0, -1]])
            paint.area(axes, inner, zorder=0.1, facecolor=style.ground)
        elif request.kind == "contour":  # lines leave the ground open: clear it at the cells
            paint.flat(axes, plane, ~plane.missing, style.ground, zorder=0.2)
    if plane.bad.any():
        paint.flat(axes, plane, plane.bad, style.bad, zorder=0.3)


def _notes(panel: Panel, quantity: Quantity, scale: Scale | None, *, narrow: bool) -> list[str]:
    """Return what a reader must know to take the picture for what it is."""
    lines, plane, request = list[str](), panel.plane, panel.request
    if panel.has_path:
        lines += paths.notes(panel.surface, narrow=narrow)
    elif panel.curve is not None:
        lines += paths.curve_notes(panel.curve)
    if request.kind == "contour":
        label = quantity.label if request.look.zlabel is None else request.look.zlabel
        lines += [f"lines of equal {label}"] if label else []
    best = None if panel.has_path or panel.curve else plane.best(quantity.best)
    if best is not None and scale is not None:
        value = scales.power_text(float(f"{best[2]:.4g}"))
        if scale.constant or plane.finite.max() == plane.finite.min():
            lines.append(f"constant: every drawn cell is {value}")
        else:
            word = {"low": "lowest", "high": "highest"}[quantity.best]
            unit = " %" if quantity.is_percent else ""
            marked = "+ centre, \N{WHITE CIRCLE} " if request.style.marks else ""
            lines.append(f"{marked}{word} cell, {value}{unit}")
    hatched = STANDS_IN if request.filled else plane.coarse or "hatched"
    bands = request.kind in ("filled", "trajectory") and not _fills(plane, request)
    lines += page.about_cells(plane.tally, hatched=hatched, bad="grey")
    lines += [BAND] if bands and plane.tally.bad else []
    lines += page.about_clipping(plane.finite, scale) if scale else []
    if panel.has_lines and panel.joined is not plane:
        lines.append(f"lines {panel.joined.coarse}")
    return lines
