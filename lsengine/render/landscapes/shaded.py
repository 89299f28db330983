"""The plane as a landscape: height is the quantity, shaded, seen from above at an angle.

Shape suffixes: B betas, A alphas, Q quads of the mesh.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox
from mpl_toolkits.mplot3d.art3d import Poly3DCollection  # type: ignore[import-untyped]
from mpl_toolkits.mplot3d.axes3d import Axes3D  # type: ignore[import-untyped]
from mpl_toolkits.mplot3d.proj3d import proj_transform  # type: ignore[import-untyped]

from lsengine.render.landscapes.camera import Camera, chosen
from lsengine.render.landscapes.mesh import split
from lsengine.render.landscapes.terrain import (
    FADE,
    PALE,
    Terrain,
    bar,
    base,
    cut,
    frame,
    terrains,
)
from lsengine.render.page import page, words
from lsengine.render.request import Request
from lsengine.surface.cells import Floats, corners

FULL = 1.06  # zoom at which a scene fills its axes up to the title, if it fits
LIGHT = np.array([-0.55, -0.35, 0.76])  # towards the lamp, over the viewer's left shoulder
HEIGHTS = 6  # numbers on the vertical axis at most
MESH = 110  # quads along an axis after which finer shading is not seen


def draw(request: Request) -> Figure:
    """Draw every surface of the request as a landscape, on one scale.

    Raises:
        UsageError: If a surface has nothing to join into a landscape.
    """
    shown = terrains(request)
    figure, axes = page.sheet(len(shown), request.style, 0.82, projection="3d")
    for panel, terrain in zip(axes, shown, strict=True):
        _frame(cast(Axes3D, panel), terrain)
    camera = chosen(request.look, _hidden(axes, shown))
    for panel, terrain in zip(axes, shown, strict=True):
        scene = cast(Axes3D, panel)
        _place(scene, terrain, camera)
        _turn_words(scene, camera)
        _add_mesh(scene, terrain)
        hides_marks = _mark(scene, terrain)
        words.caption(panel, terrain.surface, request)
        lines = terrain.notes(hides_marks=hides_marks)
        if _is_cut(scene, terrain):
            _leave_words_out(scene, terrain)
            lines.append(cut(terrain))
        words.note(panel, lines, page.letter(panel) * 1.2)
    bar(figure, axes, shown[0], shrink=0.62, pad=0.06).set_anchor((0.0, 0.5))
    _make_room(figure)
    for panel in axes:
        _thin(cast(Axes3D, panel))
    words.lower_notes(figure, axes)
    words.finish(figure, axes, request)
    return figure


def _hidden(axes: list[Axes], shown: list[Terrain]) -> Callable[[Camera], int]:
    """Return a function that counts the sights of all landscapes that a camera does not see."""
    grounds = [terrain.ground for terrain in shown]
    sights = [g.spots(t.sights()) for g, t in zip(grounds, shown, strict=True)]

    def count(camera: Camera) -> int:
        hidden = 0
        for panel, terrain, ground, points in zip(axes, shown, grounds, sights, strict=True):
            scene = cast(Axes3D, panel)
            _place(scene, terrain, camera)
            hidden += int(ground.hides(points, terrain.to_base(_eye(scene))).sum())
        return hidden

    return count


def _place(axes: Axes3D, terrain: Terrain, camera: Camera) -> None:
    """Look at the axes from a camera, which sees all of them at zoom 1."""
    box = (*base(terrain.plane), terrain.request.style.relief)
    axes.view_init(elev=camera.elevation, azim=camera.azimuth)
    axes.set_proj_type("persp", focal_length=1.6)
    ends = np.meshgrid(axes.get_xlim(), axes.get_ylim(), axes.get_zlim())
    zoom = FULL
    for _ in range(3):  # in perspective size does not follow zoom exactly
        axes.set_box_aspect(box, zoom=zoom)
        zoom *= min(1.0, 0.499 / float(np.abs(_seen(axes, *ends) - 0.5).max()))
    axes.set_box_aspect(box, zoom=zoom * camera.zoom)


def _add_mesh(axes: Axes3D, terrain: Terrain) -> None:
    """Add the quads whose four corners have values; others stay open."""
    (low, high), style, plane = terrain.scale.span, terrain.request.style, terrain.plane
    x, y, z_BA = _finer(plane.alpha, plane.beta, terrain.uncut)
    z_BA = np.clip(z_BA, low, high)
    light_BA = _light(x, y, z_BA * (style.relief / (high - low)))
    quads_Q4 = np.stack([corners(a) for a in (*np.meshgrid(x, y), z_BA)], axis=-1).reshape(-1, 4, 3)
    height_Q = corners(z_BA).mean(axis=-1).ravel()
    light_Q = corners(light_BA).mean(axis=-1).ravel()
    is_drawn = np.isfinite(quads_Q4).all(axis=(1, 2)) & np.isfinite(light_Q)
    color = colormaps[style.colormap](Normalize(low, high)(height_Q[is_drawn]))
    if terrain.request.filled:  # what stands in for a cell is lighter
        *_, faded_BA = _finer(plane.alpha, plane.beta, plane.missing.astype(np.float64))
        faded_Q = (corners(faded_BA).max(axis=-1).ravel() > 0)[is_drawn]
        color[faded_Q, :3] += FADE * (np.array(to_rgb(style.ground)) - color[faded_Q, :3])
    # Ambient and diffuse light, and a soft highlight.
    light_Q1 = light_Q[is_drawn, None]
    shaded = color[:, :3] * (0.42 + 0.62 * light_Q1)
    color[:, :3] = np.clip(shaded + 0.16 * light_Q1**18, 0.0, 1.0)
    # Antialiased quads would show hairlines between each other.
    mesh = Poly3DCollection(quads_Q4[is_drawn], facecolors=color, linewidths=0, antialiased=False)
    mesh.set_rasterized(True)
    axes.add_collection3d(mesh, autolim=False)


def _finer(x: Floats, y: Floats, z_BA: Floats) -> tuple[Floats, Floats, Floats]:
    """Split quads bilinearly, which changes the shading only, not the shape."""
    parts = max(1, min(4, MESH // max(z_BA.shape)))
    fine_x, fine_y = split(x, parts), split(y, parts)
    along = np.apply_along_axis(lambda row: np.interp(fine_x, x, row), 1, z_BA)
    return fine_x, fine_y, np.apply_along_axis(lambda row: np.interp(fine_y, y, row), 0, along)


def _light(x: Floats, y: Floats, z_BA: Floats) -> Floats:
    """Return the cosine between the ground's normal and the lamp, in the box's proportions."""
    width, depth = x[-1] - x[0], y[-1] - y[0]
    by_y, by_x = np.gradient(z_BA, y / depth, x / width)
    normal = np.stack((-by_x, -by_y, np.ones_like(z_BA)), axis=-1)
    cosine = normal @ (LIGHT / np.linalg.norm(LIGHT)) / np.linalg.norm(normal, axis=-1)
    return np.asarray(np.clip(cosine, 0.0, 1.0))


def _frame(axes: Axes3D, terrain: Terrain) -> None:
    (alpha, beta), scale, style = terrain.plane.whole, terrain.scale, terrain.request.style
    axes.set(xlim=(alpha[0], alpha[-1]), ylim=(beta[0], beta[-1]), zlim=scale.span)
    pad = 0.5 * page.letter(axes) - 6.0
    name_x, name_y = words.names_of_axes(terrain.request)
    axes.set_xlabel(name_x, labelpad=pad + 1.0)
    axes.set_ylabel(name_y, labelpad=pad + 5.0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2.5, 5, 10]))
    low, high = scale.span
    ticks = scale.labelled(HEIGHTS)  # without one at the floor, where the numbers of beta are
    ticks = ticks[scale.forward(ticks) > low + 0.05 * (high - low)]
    axes.set_zticks(scale.forward(ticks))
    axes.set_zticklabels([scale.tick_text(float(tick), ticks) for tick in ticks])
    axes.tick_params(pad=-1)
    axes.tick_params(axis="z", pad=2)
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.set_pane_color(style.ground)
        axis.line.set_color(style.faint)
        axis._axinfo["grid"].update({"color": style.faint, "linewidth": 0.3})


def _turn_words(axes: Axes3D, camera: Camera) -> None:
    """Have numbers run outwards: at the corner in front those of two axes would meet."""
    azimuth = np.radians(camera.azimuth)
    alpha_is_left = np.sin(azimuth) * np.cos(azimuth) < 0  # the nearer edge along alpha
    sides = ("right", "left") if alpha_is_left else ("left", "right")
    for axis, side in zip((axes.xaxis, axes.yaxis), sides, strict=True):
        for label in axis.get_ticklabels():
            label.set_horizontalalignment(side)


def _is_cut(axes: Axes3D, terrain: Terrain) -> bool:
    """Whether the landscape is larger than its picture."""
    alpha_beta = np.meshgrid(terrain.plane.alpha, terrain.plane.beta)
    return bool((np.abs(_seen(axes, *alpha_beta, terrain.heights) - 0.5) > 0.5).any())


def _seen(axes: Axes3D, *points: Any) -> Floats:
    """Return where points are in the picture, whose corners are (0, 0) and (1, 1); (N, 2)."""
    x, y, _ = proj_transform(*(np.ravel(part) for part in points), axes.get_proj())
    to_picture = axes.transData - axes.transAxes
    return np.asarray(to_picture.transform(np.stack([x, y], axis=-1)))


def _leave_words_out(axes: Axes3D, terrain: Terrain) -> None:
    """Frame a landscape that is larger than its picture, with the names of its axes alone."""
    frame(axes, terrain.request.style.faint)
    azimuth = np.radians(axes.azim)
    nearer = -int(np.cos(azimuth) > 0), -int(np.sin(azimuth) > 0)  # ends, as indices
    (alpha, beta), (low, _) = terrain.plane.whole, terrain.scale.span
    middles = ((alpha.mean(), beta[nearer[1]], low), (alpha[nearer[0]], beta.mean(), low))
    names = words.names_of_axes(terrain.request)
    for name, middle in zip(names, middles, strict=True):
        place = np.clip(_seen(axes, *middle)[0], 0.07, 0.93)
        look: dict[str, Any] = {"ha": "center", "va": "center", "zorder": 6}
        halo = page.halo(terrain.request.style.ground)
        axes.text2D(*place, name, transform=axes.transAxes, path_effects=halo, **look)
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.set_ticks_position("none")
        axis.set_label_position("none")
        for artist in (axis.gridlines, axis.line, axis.pane):
            artist.set_clip_path(axes.patch)


def _make_room(figure: Figure) -> None:
    """Move the scenes away from edges of the page that words lie beyond."""
    width, left, right = float(figure.get_figwidth()), 0.0, 0.0
    for _ in range(4):  # words move with their scene, and only drawing says where they are
        figure.draw_without_rendering()
        box = figure.get_tightbbox(cast(Any, figure.canvas).get_renderer())
        left, right = left + max(0.0, -box.x0), right + max(0.0, box.x1 - width)
        if max(left, right) > 0 and left + right < width / 2:
            rect = (left / width, 0.0, 1.0 - (left + right) / width, 1.0)
            cast(Any, figure.get_layout_engine()).set(rect=rect)
    figure.draw_without_rendering()


def _thin(axes: Axes3D) -> None:
    """Hide numbers that lie on others; what was drawn last is looked at."""
    renderer = cast(Any, page.root(axes).canvas).get_renderer()
    taken: list[Bbox] = []
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        for tick in axis.majorTicks:
            box = tick.label1.get_window_extent(renderer)
            is_free = not box.count_overlaps([other.expanded(0.9, 0.8) for other in taken])
            tick.label1.set_visible(is_free)
            if is_free:
                taken.append(box)


def _mark(axes: Axes3D, terrain: Terrain) -> bool:
    """Mark the centre and other minima; return whether the surface hides one of them.

    Of a hidden one a dotted line goes up to where it leaves the surface.
    """
    axes.computed_zorder = False
    markers, style, (low, high) = terrain.markers(), terrain.request.style, terrain.scale.span
    if not markers:
        return False
    ground, eye = terrain.ground, terrain.to_base(_eye(axes))
    points = terrain.to_base(np.array([marker.place for marker in markers]))
    behind = ground.hides(points, eye)
    for marker, point, is_behind in zip(markers, points, behind, strict=True):
        opacity = PALE if is_behind else 1.0
        if is_behind:
            top = low + (high - low) * ground.clearance(point, eye) / style.relief
            ends = np.stack([marker.place, (*marker.place[:2], top)])
            axes.plot(*ends.T, **terrain.sight_line)
        for look in page.mark_looks(style, marker.symbol):
            axes.plot(*marker.place[:, None], **look, alpha=opacity, zorder=5)
        if marker.name:
            text = axes.text(*marker.place, f" {marker.name}", va="bottom", alpha=opacity, zorder=6)
            text.set(fontsize=page.letter(axes) * 0.82, path_effects=page.halo(style.ground))
    return bool(behind.any())


def _eye(axes: Axes3D) -> Floats:
    """Return where the camera stands: the one point that the projection sends nowhere; (3,)."""
    *_, still = np.linalg.svd(axes.get_proj()[[0, 1, 3]])[2]
    return np.asarray(still[:3] / still[3])
