"""The plane as a lit landscape: a scene drawn by VTK on a page set by matplotlib.

Words, ticks and the colour bar stay text, and vector graphics in PDF and SVG; the scene is an
image in it.

Shape suffixes: B betas, A alphas.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.text import Annotation
from matplotlib.ticker import MaxNLocator

from lsengine.render.landscapes.camera import Camera, View, chosen, fitted_view, turning_view
from lsengine.render.landscapes.mesh import smooth_mesh
from lsengine.render.landscapes.terrain import (
    FADE,
    PALE,
    Marker,
    Terrain,
    bar,
    base,
    cut,
    frame,
    terrains,
)
from lsengine.render.landscapes.vtk_scene import Landscape, Scene
from lsengine.render.page import page, words
from lsengine.render.request import Request
from lsengine.surface.cells import Floats, Mask

GAP = 0.06  # between the lowest cell and the floor, of the base, if lines are drawn there
OUTSIDE = 0.3  # heights of a letter between the floor's edge, its numbers and their name
CLOSE = 0.14  # of an axis: a number nearer to one of its ends would meet the end's


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mark:
    """What is drawn at a marked point of a landscape."""

    point: Floats  # in units of the base, on the mesh; (3,)
    name: Annotation  # beside it
    outlines: list[Line2D]  # the mark, its ground first
    sight_line: Line2D  # from a hidden mark up to where it leaves the surface


@dataclass(frozen=True, slots=True, kw_only=True)
class _AxisWord:
    """A number of an axis, or its name."""

    along: int  # 0 for alpha, 1 for beta
    share: float  # where it belongs, from one end of the axis to the other
    is_name: bool  # whether it lies beyond the numbers
    text: Annotation
    half: Floats  # half its width and height in points; (2,)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Panel:
    """One landscape and its place on the page."""

    axes: Axes
    terrain: Terrain
    landscape: Landscape
    words: list[_AxisWord]
    marks: list[_Mark]
    image: AxesImage

    def scene(self) -> Scene:
        """Return the scene, of as many pixels as the page has for it."""
        box = self.axes.get_window_extent()
        dots = self.terrain.request.style.dpi / page.root(self.axes).dpi
        width, height = (max(2, round(length * dots)) for length in (box.width, box.height))
        return Scene(self.landscape, (width, height))

    def show(self, scene: Scene, view: View) -> None:
        """Show the scene from a point of view, with marks and words where they belong there."""
        self.image.set_data(scene.picture(view))
        self.place(view)

    def place(self, view: View) -> None:
        """Put marks and words where they belong from a point of view."""
        _place_marks(self, view)
        for along in (0, 1):
            _place_words(self, view, along)
        _thin(self, view)

    def hidden(self, view: View) -> Mask:
        """Return which marks the landscape hides; (marks,)."""
        points = np.reshape([mark.point for mark in self.marks], (-1, 3))
        return self.landscape.mesh.ground.hides(points, view.position)


def draw(request: Request) -> Figure:
    """Draw every surface of the request as a lit landscape, on one scale.

    Raises:
        UsageError: If a surface has nothing to join into a landscape.
        EnvironmentUnfit: If VTK is not there, or nothing to draw with.
    """
    figure, panels, views = _composed(request, turns=False)
    for panel in panels:
        with panel.scene() as scene:
            panel.show(scene, views[0])
    return figure


def turning(request: Request) -> tuple[Figure, Iterator[int]]:
    """Return a figure, and an iterator that turns its landscapes once around; raises as `draw`."""
    figure, panels, views = _composed(request, turns=True)

    def shots() -> Iterator[int]:
        with ExitStack() as stack:
            scenes = [stack.enter_context(panel.scene()) for panel in panels]
            for index, view in enumerate(views):
                for panel, scene in zip(panels, scenes, strict=True):
                    panel.show(scene, view)
                yield index

    return figure, shots()


def _composed(request: Request, *, turns: bool) -> tuple[Figure, list[_Panel], list[View]]:
    """Lay the page out with everything on it but the scenes, and return all points of view."""
    style, shown = request.style, terrains(request)
    landscapes = [_landscape(terrain) for terrain in shown]
    outline = np.concatenate([_outline(landscape) for landscape in landscapes])
    camera = chosen(request.look, _hidden(shown, landscapes, outline))
    view = (turning_view if turns else fitted_view)(outline, camera)
    frames = style.turntable.frames
    views = [view.turned(2 * np.pi * i / frames) for i in range(frames)] if turns else [view]
    figure, axes = page.sheet(len(shown), style, view.ratio)
    panels = []
    for side, terrain, landscape in zip(axes, shown, landscapes, strict=True):
        side.set(xlim=(0, 1), ylim=(0, view.ratio), aspect="equal", xticks=[], yticks=[])
        side.set_axis_off()
        blank = np.zeros((2, 2, 4), np.uint8)
        panel = _Panel(
            axes=side,
            terrain=terrain,
            landscape=landscape,
            image=side.imshow(blank, extent=(0, 1, 0, view.ratio), interpolation="antialiased"),
            marks=[_mark(side, marker, terrain, landscape) for marker in terrain.markers()],
            words=_axis_words(side, terrain),
        )
        panel.place(view)
        panels.append(panel)
        words.caption(side, terrain.surface, request)
        hides_marks = any(panel.hidden(seen_from).any() for seen_from in views)
        lines = terrain.notes(hides_marks=hides_marks)
        if any(_is_cut(landscape, seen_from) for seen_from in views):
            lines.append(cut(terrain))
            frame(side, style.faint)
        words.note(side, lines, page.letter(side) * 1.2)
    bar(figure, axes, shown[0], shrink=0.7, pad=0.02)
    words.lower_notes(figure, axes)
    words.finish(figure, axes, request)
    return figure, panels, views


def _hidden(
    shown: list[Terrain], landscapes: list[Landscape], outline: Floats
) -> Callable[[Camera], int]:
    """Return a function that counts the sights of all landscapes that a camera does not see."""
    grounds = [landscape.mesh.ground for landscape in landscapes]
    sights = [g.spots(t.sights()) for g, t in zip(grounds, shown, strict=True)]

    def count(camera: Camera) -> int:
        eye = fitted_view(outline, camera).position
        pairs = zip(grounds, sights, strict=True)
        return sum(int(ground.hides(points, eye).sum()) for ground, points in pairs)

    return count


def _outline(landscape: Landscape) -> Floats:
    """Return points between which a landscape and its floor are; (N, 3)."""
    mesh = landscape.mesh
    x, y = np.meshgrid(mesh.x[::4], mesh.y[::4])
    tops = np.stack([x, y, mesh.z[::4, ::4]], axis=-1).reshape(-1, 3)
    corners = [(a, b, landscape.floor) for a in mesh.x[[0, -1]] for b in mesh.y[[0, -1]]]
    return np.concatenate([tops, corners])


def _landscape(terrain: Terrain) -> Landscape:
    """Return what is in the scene of a landscape."""
    plane, scale, style = terrain.plane, terrain.scale, terrain.request.style
    low, high = scale.span
    share_BA = (terrain.uncut - low) / (high - low)
    axes = zip((plane.alpha, plane.beta), plane.whole, base(plane), strict=True)
    x, y = ((axis - all_[0]) / (all_[-1] - all_[0]) * width for axis, all_, width in axes)
    mesh = smooth_mesh(x, y, share_BA * style.relief, (0.0, style.relief))
    colors = colormaps[style.colormap](mesh.z / style.relief)[..., :3]
    if terrain.request.filled:  # what stands in for a cell is lighter
        pairs = ((y, mesh.y), (x, mesh.x))
        nearest = (np.abs(fine[:, None] - axis).argmin(axis=1) for axis, fine in pairs)
        stands_in = plane.missing[np.ix_(*nearest)]
        colors[stands_in] += FADE * (np.array(to_rgb(style.ground)) - colors[stands_in])
    levels = scale.forward(scale.levels)
    levels = (levels[(levels > low) & (levels < high)] - low) / (high - low)
    has_floor_lines, (first, last) = style.lines in ("floor", "both"), style.line_range
    on_floor = levels if has_floor_lines else levels[:0]
    return Landscape(
        mesh=mesh,
        colors=colors,
        lines=levels * style.relief if style.lines in ("surface", "both") else levels[:0],
        floor=(-GAP if has_floor_lines else 0.0) - 0.004,
        floor_lines=on_floor * style.relief,
        floor_colors=colormaps[style.colormap](first + (last - first) * on_floor)[:, :3],
        ink=to_rgb("#1a1a1a"),
        faint=to_rgb(style.faint),
    )


def _axis_words(axes: Axes, terrain: Terrain) -> list[_AxisWord]:
    """Make the numbers and names of both axes; `_place_words` puts them where they belong."""
    figure, made = page.root(axes), []
    for along, name in enumerate(words.names_of_axes(terrain.request)):
        low, high = (float(end) for end in terrain.plane.whole[along][[0, -1]])
        numbers = [(text, (tick - low) / (high - low), False) for tick, text in _numbers(low, high)]
        for label, share, is_name in [*numbers, (name, 0.5, True)]:
            text = _word(axes, label, page.letter(axes) * (1.1 if is_name else 0.88))
            box = text.get_window_extent(cast(Any, figure.canvas).get_renderer())
            half = np.array([box.width, box.height]) * 36.0 / figure.dpi
            word = _AxisWord(along=along, share=share, is_name=is_name, text=text, half=half)
            made.append(word)
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


def _word(axes: Axes, text: str, size: float, **look: Any) -> Annotation:
    look = {"xytext": (0.0, 0.0), "ha": "center", "va": "center", "zorder": 6, **look}
    look |= {"textcoords": "offset points", "annotation_clip": False, "fontsize": size}
    return axes.annotate(text, (0.0, 0.0), **look)


def _mark(axes: Axes, marker: Marker, terrain: Terrain, landscape: Landscape) -> _Mark:
    """Make mark and name of a point of a landscape; `_place_marks` puts them there."""
    style, point = (
        terrain.request.style,
        landscape.mesh.ground.on_top(terrain.to_base(marker.place)),
    )
    beside: dict[str, Any] = {"xytext": (4.0, 3.0), "ha": "left", "va": "bottom"}
    beside["path_effects"] = page.halo(style.ground)
    looks = page.mark_looks(style, marker.symbol)
    return _Mark(
        point=point,
        name=_word(axes, marker.name, page.letter(axes) * 0.82, **beside),
        outlines=[axes.plot([0.0], [0.0], **look, zorder=5)[0] for look in looks],
        sight_line=axes.plot([], [], **terrain.sight_line)[0],
    )


def _place_marks(panel: _Panel, view: View) -> None:
    """Put marks where they are, pale if they are hidden."""
    for mark, is_hidden in zip(panel.marks, panel.hidden(view), strict=True):
        mark.name.xy = _pair(view.project(mark.point))
        for line in mark.outlines:
            line.set_data(*([value] for value in mark.name.xy))
        for artist in (mark.name, *mark.outlines):
            artist.set_alpha(PALE if is_hidden else 1.0)
        mark.sight_line.set_visible(bool(is_hidden))
        if is_hidden:
            top = panel.landscape.mesh.ground.clearance(mark.point, view.position)
            ends = np.stack([mark.point, (*mark.point[:2], top)])
            mark.sight_line.set_data(*view.project(ends).T)


def _place_words(panel: _Panel, view: View, along: int) -> None:
    """Put the numbers of an axis beyond the nearer edge of the floor, and its name beyond them."""
    size, floor = base(panel.terrain.plane), panel.landscape.floor
    near = size[1 - along] if view.toward[1 - along] > 0 else 0.0  # the edge the words are at
    ends = np.full((3, 3), floor)
    ends[:, along] = 0.0, size[along], 0.0
    ends[:, 1 - along] = near
    ends[2, 1 - along] += 0.05 if near > 0 else -0.05
    first, last, beyond = view.project(ends)
    way = (beyond - first) / np.linalg.norm(beyond - first)
    across = np.array([first[1] - last[1], last[0] - first[0]])
    across *= np.sign(across @ way) / np.linalg.norm(across)
    steep = max(float(across @ way), 0.4)  # an edge seen from its end has no beyond
    words = [word for word in panel.words if word.along == along]
    deep = [float(np.abs(across) @ word.half) for word in words]
    deepest = max(d for d, word in zip(deep, words, strict=True) if not word.is_name)
    gap = OUTSIDE * page.letter(panel.axes)
    for word, half in zip(words, deep, strict=True):
        at = np.full(3, floor)
        at[along], at[1 - along] = word.share * size[along], near
        place = view.project(at)
        if word.is_name:  # it stays beside a picture that is cut
            place = np.clip(place, 0.0, [1.0, view.ratio])
        word.text.xy = _pair(place)
        free = gap + half + (2 * deepest + gap if word.is_name else 0.0)
        word.text.set_position(_pair(way * free / steep))


def _thin(panel: _Panel, view: View) -> None:
    """Hide numbers that would lie on others, or belong beyond the picture; ends go first."""
    figure = page.root(panel.axes)
    width = panel.axes.get_window_extent().width * 72.0 / figure.dpi
    taken: list[tuple[Floats, Floats]] = []
    for word in sorted(panel.words, key=lambda word: min(word.share, 1.0 - word.share)):
        if word.is_name:
            continue
        at = np.array(word.text.xy) * width + np.array(word.text.get_position())
        reach = 0.8 * word.half  # letters do not fill their box
        apart = all((np.abs(at - there) > reach + other).any() for there, other in taken)
        inside = _inside(np.array(word.text.xy), view)
        word.text.set_visible(apart and inside)
        if apart and inside:
            taken.append((at, reach))


def _inside(places: Floats, view: View) -> bool:
    """Whether places (..., 2) are all in the picture."""
    return bool(((places > -1e-6) & (places < np.array([1.0, view.ratio]) + 1e-6)).all())


def _is_cut(landscape: Landscape, view: View) -> bool:
    return not _inside(view.project(_outline(landscape)), view)


def _pair(values: Floats) -> tuple[float, float]:
    return float(values[0]), float(values[1])
