"""The plane as a lit landscape: a scene drawn by VTK on a page set by matplotlib.

Words, ticks and the colour bar stay text, and vector graphics in PDF and SVG; the scene is an
image in it.

Shape suffixes: B betas, A alphas.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from lsengine.render import page
from lsengine.render.landscapes.camera import View, fitted
from lsengine.render.landscapes.mesh import above, clearance, hidden, relief
from lsengine.render.landscapes.shaded import (
    BEHIND,
    FADE,
    PALE,
    Marker,
    based,
    box,
    checked,
    heights,
    leader,
    notes,
    places,
)
from lsengine.render.landscapes.vtk_scene import Landscape, Scene
from lsengine.render.page.scales import Scale
from lsengine.render.planes import common_scale
from lsengine.render.request import Request
from lsengine.render.style.styles import Camera, Style
from lsengine.surface.cells import Plane
from lsengine.surface.quantities import describe

Floats = NDArray[np.float64]
GAP = 0.06  # between the lowest cell and the floor, of the base, if lines are drawn there
OUTSIDE = 0.3  # heights of a letter between the floor's edge, its numbers and their name
CLOSE = 0.14  # of an axis: a number nearer to one of its ends would meet the end's


@dataclass(frozen=True, slots=True)
class _Mark:
    """A point of a landscape, in the scene, and what is drawn at it."""

    point: Floats
    word: Annotation
    lines: list[Line2D]
    leader: Line2D


@dataclass(frozen=True, slots=True)
class _Panel:
    """One landscape and its place on the page."""

    axes: Axes
    plane: Plane
    landscape: Landscape
    words: list[tuple[str, float, Annotation, Floats]]
    marks: list[_Mark]
    image: AxesImage


def draw(request: Request) -> Figure:
    """Draw every surface of the request as a lit landscape, on one scale.

    Raises:
        UsageError: If a surface has nothing to join into a landscape.
        EnvironmentUnfit: If VTK is not there, or nothing to draw with.
    """
    figure, panels, view = _composed(request, request.style.camera, all_around=False)
    for panel in panels:
        with Scene(panel.landscape, _pixels(panel, request.style)) as scene:
            _show(panel, scene, view)
    return figure


def turning(request: Request) -> tuple[Figure, Iterator[int]]:
    """Return a figure, and an iterator that turns its landscapes once around, step by step.

    Raises:
        UsageError: If a surface has nothing to join into a landscape.
        EnvironmentUnfit: If VTK is not there, or nothing to draw with.
    """
    figure, panels, view = _composed(request, request.style.camera, all_around=True)
    return figure, _turned(panels, view, request.style)


def _turned(panels: list[_Panel], view: View, style: Style) -> Iterator[int]:
    with ExitStack() as stack:
        scenes = [stack.enter_context(Scene(p.landscape, _pixels(p, style))) for p in panels]
        for index in range(style.turntable.frames):
            for panel, scene in zip(panels, scenes, strict=True):
                _show(panel, scene, _step(view, index, style))
            yield index


def _step(view: View, index: int, style: Style) -> View:
    """Return the view of a picture of a turntable."""
    return view.turned(2 * np.pi * index / style.turntable.frames)


def _composed(
    request: Request, camera: Camera, *, all_around: bool
) -> tuple[Figure, list[_Panel], View]:
    """Lay the page out with everything on it but the scenes."""
    assert request.quantity is not None  # only curves do without
    quantity, style = describe(request.quantity), request.style
    planes = [checked(surface, request) for surface in request.surfaces]
    scale = common_scale(planes, quantity, request)
    assert scale is not None  # `checked` found finite cells
    scapes = [_landscape(plane, scale, request) for plane in planes]
    seen = np.concatenate([_seen(scape) for scape in scapes])
    view = fitted(seen, camera, all_around=all_around)
    steps = style.turntable.frames if all_around else 1
    figure, axes = page.sheet(len(planes), style, view.ratio)
    panels = []
    for side, plane, scape, surface in zip(axes, planes, scapes, request.surfaces, strict=True):
        side.set(xlim=(0, 1), ylim=(0, view.ratio), aspect="equal")
        side.set_axis_off()
        blank = np.zeros((2, 2, 4), np.uint8)
        image = side.imshow(blank, extent=(0, 1, 0, view.ratio), interpolation="antialiased")
        found = places(surface, plane, scale, request)
        marked = [_mark(side, place, scape, plane, scale, style) for place in found]
        panel = _Panel(side, plane, scape, _words(side, plane), marked, image)
        _place(panel, view)
        panels.append(panel)
        page.caption(side, surface)
        behind = any(_behind(panel, _step(view, i, style)).any() for i in range(steps))
        said = notes(plane, scale, request) + ([BEHIND] if behind else [])
        page.note(side, said, float(side.xaxis.label.get_fontsize()) * 1.2)
    colors = ScalarMappable(Normalize(*scale.span), colormaps[style.colormap])
    colors.cmap.colorbar_extend = scale.extend  # type: ignore[assignment]  # is a word
    page.bar(figure, colors, axes, scale, quantity, shrink=0.7, pad=0.02, most=8)
    page.settle(figure)
    return figure, panels, view


def _seen(scape: Landscape) -> Floats:
    """Return points between which a landscape and its floor are; (N, 3)."""
    relief = scape.relief
    x, y = np.meshgrid(relief.x[::4], relief.y[::4])
    tops = np.stack([x, y, relief.z[::4, ::4]], axis=-1).reshape(-1, 3)
    corners = [(a, b, scape.floor) for a in relief.x[[0, -1]] for b in relief.y[[0, -1]]]
    return np.concatenate([tops, corners])


def _floor(style: Style) -> float:
    return -GAP if style.lines in ("floor", "both") else 0.0


def _landscape(plane: Plane, scale: Scale, request: Request) -> Landscape:
    style = request.style
    low, high = scale.span
    share_BA = (heights(plane, scale, request) - low) / (high - low)
    x, y = (
        (axis - whole[0]) / (whole[-1] - whole[0]) * width
        for axis, whole, width in zip(
            (plane.alpha, plane.beta), plane.whole, box(plane), strict=True
        )
    )
    made = relief(x, y, share_BA * style.relief)
    colors = colormaps[style.colormap](made.z / style.relief)[..., :3]
    if request.filled:  # what stands in for a cell is lighter
        own = plane.missing[np.ix_(*(_owner(*pair) for pair in ((y, made.y), (x, made.x))))]
        colors[own] += FADE * (np.array(to_rgb(style.ground)) - colors[own])
    inner = scale.forward(scale.levels)
    inner = (inner[(inner > low) & (inner < high)] - low) / (high - low)
    at, (first, last) = inner * style.relief, style.line_range
    none = np.empty(0)
    return Landscape(
        relief=made,
        colors=colors,
        lines=at if style.lines in ("surface", "both") else none,
        floor=_floor(style) - 0.004,
        floor_lines=at if style.lines in ("floor", "both") else none,
        floor_colors=colormaps[style.colormap](first + (last - first) * inner)[:, :3]
        if style.lines in ("floor", "both")
        else np.empty((0, 3)),
        ink=to_rgb("#1a1a1a"),
        faint=to_rgb(style.faint),
    )


def _owner(axis: Floats, fine: Floats) -> NDArray[np.intp]:
    """Return the nearest cell of each point of a finer axis."""
    return np.asarray(np.abs(fine[:, None] - axis).argmin(axis=1))


def _pixels(panel: _Panel, style: Style) -> tuple[int, int]:
    figure = panel.axes.get_figure(root=True)
    assert figure is not None
    box_ = panel.axes.get_window_extent()
    dots = style.dpi / figure.dpi
    return max(2, round(box_.width * dots)), max(2, round(box_.height * dots))


def _show(panel: _Panel, scene: Scene, view: View) -> None:
    panel.image.set_data(scene.picture(view))
    _place(panel, view)


def _words(axes: Axes, plane: Plane) -> list[tuple[str, float, Annotation, Floats]]:
    """Make the numbers and names of both axes; `_place` puts them where they belong.

    Returns:
        Axis, number (NaN: the name), text, and half its width and height in points.
    """
    size = float(axes.xaxis.label.get_fontsize())
    made = []
    for name, coordinates in zip(("alpha", "beta"), plane.whole, strict=True):
        for tick, text in _numbers(float(coordinates[0]), float(coordinates[-1])):
            made.append((name, tick, *_word(axes, text, size * 0.88)))
        made.append((name, np.nan, *_word(axes, rf"$\{name}$", size * 1.1)))
    return made


def _numbers(low: float, high: float) -> list[tuple[float, str]]:
    """Return both ends of an axis and round numbers between, and how they are printed."""
    ticks = MaxNLocator(nbins=4, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    edge = CLOSE * (high - low)
    inner = [float(t) for t in ticks if low + edge < t < high - edge]
    digits = next(d for d in range(12) if all(abs(round(t, d) - t) < 1e-9 for t in inner))
    texts = [f"{low:.3g}", *(f"{t + 0.0:.{digits}f}" for t in inner), f"{high:.3g}"]
    minus = [text.replace("-", "\N{MINUS SIGN}") for text in texts]
    return list(zip([low, *inner, high], minus, strict=True))


def _word(axes: Axes, text: str, size: float) -> tuple[Annotation, Floats]:
    word = axes.annotate(
        text,
        (0.0, 0.0),
        xytext=(0.0, 0.0),
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=size,
        annotation_clip=False,
        zorder=6,
    )
    figure = axes.get_figure(root=True)
    assert figure is not None
    box_ = word.get_window_extent(cast(Any, figure.canvas).get_renderer())
    return word, np.array([box_.width, box_.height]) * 36.0 / figure.dpi


def _mark(
    axes: Axes, place: Marker, scape: Landscape, plane: Plane, scale: Scale, style: Style
) -> _Mark:
    """Make mark and name of a point of a landscape, on its mesh; `_place` puts them there."""
    point = based(np.array([place.alpha, place.beta, place.height]), plane, scale, style)
    word, _ = _word(axes, place.name, float(axes.xaxis.label.get_fontsize()) * 0.82)
    word.set(ha="left", va="bottom", position=(4.0, 3.0))
    word.set_path_effects([withStroke(linewidth=2.0, foreground=style.ground)])
    look: dict[str, Any] = {
        "marker": place.marker,
        "markersize": 5.0,
        "markerfacecolor": "none",
        "zorder": 5,
    }
    lines = [
        axes.plot([0.0], [0.0], **look, markeredgecolor=color, markeredgewidth=width)[0]
        for width, color in ((2.4, style.ground), (1.1, style.ink))
    ]
    made = scape.relief
    on_mesh = float(above(made.x, made.y, made.drawn, point[:2]))
    point[2] = on_mesh if np.isfinite(on_mesh) else point[2]
    return _Mark(point, word, lines, axes.plot([], [], **leader(style))[0])


def _behind(panel: _Panel, view: View) -> NDArray[np.bool_]:
    """Return which marks the landscape hides; (marks,)."""
    made = panel.landscape.relief
    points = np.reshape([mark.point for mark in panel.marks], (-1, 3))
    return hidden(made.x, made.y, made.drawn, points, view.position)


def _place(panel: _Panel, view: View) -> None:
    """Put marks where they are, and numbers beyond the two edges of the floor that are nearest.

    The name of an axis lies beyond its numbers.
    """
    made = panel.landscape.relief
    for mark, is_behind in zip(panel.marks, _behind(panel, view), strict=True):
        mark.word.xy = _pair(view.project(mark.point))
        for line in mark.lines:
            line.set_data(*([value] for value in mark.word.xy))
        for artist in (mark.word, *mark.lines):
            artist.set_alpha(PALE if is_behind else 1.0)
        mark.leader.set_visible(bool(is_behind))
        if is_behind:
            top = clearance(made.x, made.y, made.drawn, mark.point, view.position)
            ends = np.stack([mark.point, (*mark.point[:2], top)])
            mark.leader.set_data(*view.project(ends).T)
    base = box(panel.plane)
    width, depth = base
    near = (width if view.toward[0] > 0 else 0.0, depth if view.toward[1] > 0 else 0.0)
    floor, gap = panel.landscape.floor, OUTSIDE * float(panel.axes.xaxis.label.get_fontsize())
    for along, name in enumerate(("alpha", "beta")):
        axis = panel.plane.whole[along]
        ends = np.full((3, 3), floor)
        ends[:, along] = 0.0, base[along], 0.0
        ends[:, 1 - along] = near[1 - along]
        ends[2, 1 - along] += 0.05 if near[1 - along] > 0 else -0.05
        first, last, beyond = view.project(ends)
        way = (beyond - first) / np.linalg.norm(beyond - first)
        across = np.array([first[1] - last[1], last[0] - first[0]])
        across *= np.sign(across @ way) / np.linalg.norm(across)
        steep = max(float(across @ way), 0.4)  # an edge seen from its end has no beyond
        mine = [word for word in panel.words if word[0] == name]
        deepest = max(
            float(np.abs(across) @ half) for _, tick, _, half in mine if not np.isnan(tick)
        )
        for _, tick, word, half in mine:
            share = 0.5 if np.isnan(tick) else (tick - axis[0]) / (axis[-1] - axis[0])
            at = np.full(3, floor)
            at[along], at[1 - along] = share * base[along], near[1 - along]
            word.xy = _pair(view.project(at))
            free = gap + float(np.abs(across) @ half)
            free += 2 * deepest + gap if np.isnan(tick) else 0.0
            word.set_position(_pair(way * free / steep))


def _pair(values: Floats) -> tuple[float, float]:
    return float(values[0]), float(values[1])
