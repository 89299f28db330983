"""Curvature: how negative the Hessian is, cell by cell, under the contours of the loss.

The ratio ``|eigenvalue_min / eigenvalue_max|`` is that of Li et al. (2018), section 6 and figure
7: near 0 the surface is almost convex, at 1 it curves down as much as up.

Shape suffixes: B betas, A alphas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PatchCollection, QuadMesh
from matplotlib.colors import BoundaryNorm, ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lsengine.render.page import contour_labels, page, scales, words
from lsengine.render.page.scales import Scale
from lsengine.render.planes import paint
from lsengine.render.planes.planes import alike, frame, free, height_by_width
from lsengine.render.request import CURVATURE, Request
from lsengine.render.style import Style
from lsengine.surface import Surface, cells
from lsengine.surface.cells import Mask, Plane
from lsengine.surface.quantities import Quantity, describe

RATIO = Quantity("ratio", r"$|\lambda_{\mathrm{min}}\,/\,\lambda_{\mathrm{max}}|$")
SIGN = Quantity("sign", "sign of the smallest eigenvalue")
SIGNS = ("\N{MINUS SIGN}", "0", "+")
PALE = 0.6  # share of a line's colour in the tint of a sign
LINE, BED = 0.6, 2.0  # widths of a line of the loss, and of what keeps it off the map
LOSS_LEVELS = 7  # of the lines over a map, about
LUMA = (0.2126, 0.7152, 0.0722)  # of linear red, green, blue; WCAG 2
UNSOLVED, UNDEFINED = "\\\\\\\\", "...."  # hatches


@dataclass(frozen=True, slots=True, kw_only=True)
class Map:
    """The curvature of one plane, sorted like its `Plane`."""

    source: Surface
    panels: dict[str, Plane]  # by name (`CURVATURE`); values NaN where there are none
    unsolved: Mask  # cells whose eigenvalues did not converge; (B, A)
    undefined: Mask  # cells without positive curvature, which have no ratio; (B, A)
    loss: Plane | None  # what the lines are of, if the surface has a loss


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One map on the page, with what a reader must know beside its scale."""

    axes: Axes
    map: Map
    name: str  # which of its panels
    notes: list[str] = field(default_factory=list)  # sentences below it

    @property
    def plane(self) -> Plane:
        """The values that are coloured."""
        return self.map.panels[self.name]


def draw(request: Request) -> Figure:
    """Draw maps: all panels of one surface, or one panel of several, on one scale."""
    maps, style = [_map(surface) for surface in request.surfaces], request.style
    contents = [(map_, name) for map_ in maps for name in _names(request)]
    loss = _loss_scale(maps, request)
    ratio = height_by_width(maps[0].panels["ratio"], "heatmap")
    figure, axes = page.sheet(len(contents), style, ratio)
    panels = [
        Panel(axes=side, map=map_, name=name)
        for side, (map_, name) in zip(axes, contents, strict=True)
    ]
    to_scale = alike([map_.panels["ratio"] for map_ in maps], "heatmap")
    for panel in panels:
        frame(panel.axes, panel.plane, replace(request, kind="heatmap"))
        if not to_scale:
            free(panel.axes)
    for name in _names(request):
        alike_panels = [panel for panel in panels if panel.name == name]
        scale = _scale([panel.plane for panel in alike_panels], name, request)
        for panel in alike_panels:
            _paint(panel, scale, style)
        _bar(figure, alike_panels, scale, style, most=round(3 + 6 * min(ratio, 1.0)))
    for panel in panels:
        _mark(panel, loss, style)
    _write(panels, request, has_lines=loss is not None)
    page.outer_labels(axes, page.columns_for(len(axes)))
    words.finish(figure, axes, request)
    if loss is not None:
        for panel in panels:
            marks = ((0.0, 0.0), *panel.map.source.marked_minima)
            contour_labels.label_contours(panel.axes, loss, marks)
    return figure


def _names(request: Request) -> tuple[str, ...]:
    if request.quantity is not None:
        return (request.quantity,)
    return CURVATURE if len(request.surfaces) == 1 else CURVATURE[:1]


def _map(surface: Surface) -> Map:
    low, high = (cells.plane(surface, describe(f"eigenvalue_{end}")) for end in ("min", "max"))
    low_BA, high_BA = low.values, high.values
    known = np.isfinite(low_BA) & np.isfinite(high_BA)
    residual_BA, converged_BA = (
        cells.plane(surface, describe(name)).values
        if name in surface.quantities
        else np.full(low_BA.shape, default)
        for name, default in (("eigenvalue_min_residual", 0.0), ("converged", 1.0))
    )
    values = {"eigenvalue_min": low_BA, "eigenvalue_max": high_BA}
    values |= {"ratio": ratios(low_BA, high_BA), "sign": signs(low_BA, residual_BA)}
    kinds = [surface.quantities[f"eigenvalue_{end}"] for end in ("min", "max")]
    tally, bad = cells.tally(surface.status, kinds), ~known & ~low.missing
    losses = [name for name in ("train_loss", "test_loss") if name in surface.quantities]
    loss = cells.joined(cells.plane(surface, describe(losses[0]))) if losses else None
    return Map(
        source=surface,
        panels={n: replace(low, values=v, bad=bad, tally=tally) for n, v in values.items()},
        unsolved=(converged_BA == 0) & known,
        undefined=known & (high_BA <= 0),
        loss=loss if loss and min(loss.values.shape) > 1 and loss.finite.size else None,
    )


def signs(low: cells.Floats, residual: cells.Floats) -> cells.Floats:
    """Return -1, 0 or 1 by cell, of any shape: 0 where the residual leaves the sign open."""
    return np.asarray(np.where(np.abs(low) <= residual, 0.0 * low, np.sign(low)))


def ratios(low: cells.Floats, high: cells.Floats) -> cells.Floats:
    """Return the ratio by cell, of any shape; NaN where no curvature is positive."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(np.abs(low) / np.where(high > 0, high, np.nan))


def _loss_scale(maps: Sequence[Map], request: Request) -> Scale | None:
    finite = [m.loss.finite for m in maps if m.loss is not None]
    if not finite:
        return None
    levels = request.levels or LOSS_LEVELS
    return scales.choose(np.concatenate(finite), describe("train_loss"), "auto", levels, None)


def _scale(these: Sequence[Plane], name: str, request: Request) -> Scale | None:
    """Return the one scale of a panel's values; None for signs, or if there are none."""
    finite = np.concatenate([plane.finite for plane in these])
    if name == "sign" or not finite.size:
        return None
    wanted = request.scale
    if name == "ratio" and wanted == "auto":
        wanted = "linear"
        finite = np.append(finite, 0.0)  # what is convex has the same colour in every picture
    return scales.choose(finite, quantity_of(name), wanted, None, request.limits)


def quantity_of(name: str) -> Quantity:
    """Return how a panel is called."""
    return {"ratio": RATIO, "sign": SIGN}.get(name) or describe(name)


def _paint(panel: Panel, scale: Scale | None, style: Style) -> None:
    """Colour and hatch the cells, and note what is beyond the scale."""
    if panel.name == "sign":
        values = np.ma.masked_invalid(panel.plane.values)
        paint.color_cells(panel.axes, panel.plane, values, _sign_colors(style), zorder=0.5)
    elif scale is not None:
        paint.heatmap(panel.axes, panel.plane, scale, style)
        clipped = page.about_clipping(panel.plane.finite, scale)
        panel.notes.extend(f"{quantity_of(panel.name).label}: {line}" for line in clipped)
    _hatch(panel.axes, panel.plane, panel.map.unsolved, UNSOLVED, style)
    if panel.name == "ratio":
        _hatch(panel.axes, panel.plane, panel.map.undefined, UNDEFINED, style)


def _mark(panel: Panel, loss: Scale | None, style: Style) -> None:
    """Draw lines of equal loss, each in a bed of the ground's colour, and mark minima."""
    if loss is not None and panel.map.loss is not None:
        # Levels whose logarithm is negative would be dashed.
        look = {"linestyles": "solid", "linewidths": LINE, "zorder": 2}
        bed = page.halo(style.ground, BED)
        paint.contour_lines(panel.axes, panel.map.loss, loss, style.ink, path_effects=bed, **look)
    paint.mark_cells(panel.axes, panel.map.panels["ratio"], RATIO, style)
    paint.mark_minima(panel.axes, panel.map.source, style)


def _sign_colors(style: Style) -> ScalarMappable:
    """Return pale colours of the signs, so that lines can be seen on them."""
    ground = np.array(to_rgb(style.ground))
    tints = [PALE * np.array(to_rgb(c)) + (1 - PALE) * ground for c in style.colors[1::-1]]
    colors = ListedColormap([tuple(tints[0]), style.faint, tuple(tints[1])])
    return ScalarMappable(BoundaryNorm([-1.5, -0.5, 0.5, 1.5], 3), colors)


def _bar(
    figure: Figure, panels: list[Panel], scale: Scale | None, style: Style, *, most: int
) -> None:
    axes, name = [panel.axes for panel in panels], panels[0].name
    if name == "sign":
        signs = _sign_colors(style)
        bar = figure.colorbar(signs, ax=axes, ticks=[-1, 0, 1], fraction=0.05, pad=0.02, aspect=24)
        bar.ax.set_yticklabels(SIGNS)
        bar.ax.tick_params(length=0)
        bar.ax.minorticks_off()
        bar.set_label(SIGN.label)
        bar.outline.set_linewidth(0.5)
    elif scale is not None:
        page.bar(figure, page.ramp(scale, style), axes, scale, quantity_of(name), most=most)


def _hatch(axes: Axes, plane: Plane, where_BA: Mask, hatch: str, style: Style) -> None:
    """Hatch cells, one by one, in what shows better on a cell's colour: dark or light."""
    x, y = paint.cell_edges(plane)
    ink, ground = (np.array(to_rgb(color)) for color in (style.ink, style.ground))
    shown_BAC = _shown(axes, where_BA, ground)
    is_inked_BA = _contrast(shown_BAC, ink) >= _contrast(shown_BAC, ground)
    for color, mask_BA in ((style.ink, is_inked_BA), (style.ground, ~is_inked_BA)):
        boxes = [
            Rectangle((x[a], y[b]), x[a + 1] - x[a], y[b + 1] - y[b])
            for b, a in np.argwhere(where_BA & mask_BA)
        ]
        if boxes:
            cells_ = PatchCollection(boxes, fc="none", ec=color, hatch=hatch, lw=0, zorder=1)
            axes.add_collection(cells_, autolim=False)


def _contrast(one: cells.Floats, other: cells.Floats) -> cells.Floats:
    """Return how well colours (..., 3), 0 to 1, tell from each other, from 1 to 21 (WCAG 2)."""
    linear = (np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) for c in (one, other))
    first, second = (light @ np.array(LUMA) + 0.05 for light in linear)
    return np.asarray(np.maximum(first, second) / np.minimum(first, second))


def _shown(axes: Axes, like_BA: Mask, ground: cells.Floats) -> cells.Floats:
    """Return the colours of a panel's cells, (B, A, 3); that of the ground where there is none."""
    meshes = [c for c in axes.collections if isinstance(c, QuadMesh)]
    if not meshes:
        return np.broadcast_to(ground, (*like_BA.shape, 3))
    painted = meshes[-1]
    values = painted.get_array()
    assert values is not None
    rgba_BAC = painted.to_rgba(values.reshape(like_BA.shape))
    opacity_BA1 = rgba_BAC[..., 3:]
    return np.asarray(opacity_BA1 * rgba_BAC[..., :3] + (1 - opacity_BA1) * ground)


def _write(panels: list[Panel], request: Request, *, has_lines: bool) -> None:
    """Write captions, and what is not drawn or not to be relied on."""
    lines = [f"lines of equal {describe('train_loss').label}"] if has_lines else []
    if len({panel.name for panel in panels}) == 1:
        for panel in panels:
            words.caption(panel.axes, panel.map.source, request)
            words.note(panel.axes, [*lines, *_about(panel.map, {panel.name}), *panel.notes])
        return
    source = panels[0].map.source
    error = cells.error_at(source)
    facts = [] if error is None else [f"test error {error:.2f} %"]
    words.over_all(panels[0].axes, words.heading(words.named(source, request), facts, request.look))
    lines += _about(panels[0].map, set(CURVATURE))
    lines += [line for panel in panels for line in panel.notes]
    words.below_all(panels[0].axes, "; ".join(lines))


def _about(map_: Map, names: set[str]) -> list[str]:
    lines = []
    if "ratio" in names:
        lines.append("ratio 0: almost convex, 1: as much curved down as up")
    if "sign" in names:
        signs_BA = map_.panels["sign"].values
        below, open_, above = (int((signs_BA == sign).sum()) for sign in (-1, 0, 1))
        parts = [f"below 0 in {below:,} cells", f"above in {above:,}"]
        parts += [f"within its residual in {open_:,}"] if open_ else []
        lines.append("smallest eigenvalue " + ", ".join(parts))
    if "ratio" in names and map_.undefined.any():
        lines.append(f"{curved_down(int(map_.undefined.sum()))} (dotted)")
    lines += page.about_cells(map_.panels["ratio"].tally, hatched="hatched", bad="grey")
    if map_.unsolved.any():
        count, total = int(map_.unsolved.sum()), map_.unsolved.size
        lines.append(f"{count:,} of {total:,} cells not converged (hatched over the colour)")
    return lines


def curved_down(count: int) -> str:
    """Return the words for cells without positive curvature."""
    return f"{count:,} {'cell' if count == 1 else 'cells'} curved down only: no ratio"
