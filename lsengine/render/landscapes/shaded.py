"""The plane as a landscape: height is the quantity, shaded, seen from above at an angle.

Shape suffixes: B betas, A alphas, Q quads of the mesh.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from mpl_toolkits.mplot3d.art3d import Poly3DCollection  # type: ignore[import-untyped]
from mpl_toolkits.mplot3d.axes3d import Axes3D  # type: ignore[import-untyped]
from numpy.typing import NDArray

from lsengine.render import page
from lsengine.render.landscapes.mesh import clearance, hidden
from lsengine.render.page.scales import Scale
from lsengine.render.planes import NOT_TO_SCALE, STANDS_IN, check, common_scale
from lsengine.render.request import Request
from lsengine.render.style.styles import Style
from lsengine.surface import Surface, cells
from lsengine.surface.cells import Plane
from lsengine.surface.quantities import describe

Floats = NDArray[np.float64]
TOP = 0.93  # of the axes: where the scene ends and words may begin
LIGHT = np.array([-0.55, -0.35, 0.76])  # towards the lamp, over the viewer's left shoulder
HEIGHTS = 6  # numbers on the vertical axis at most
FADE = 0.62  # of the way to the ground's colour, where a value stands in for another
LEAST = 0.35  # of a base's width its depth, and the other way round
MESH = 110  # quads along an axis after which finer shading is not seen
PALE = 0.5  # how opaque a mark is that the surface hides
BEHIND = "pale marks lie behind the surface, below their dotted lines"


@dataclass(frozen=True, slots=True)
class Marker:
    """A point of a landscape that is marked; its height in scaled coordinates."""

    alpha: float
    beta: float
    height: float
    name: str
    marker: str


def draw(request: Request) -> Figure:
    """Draw every surface of the request as a landscape, on one scale.

    Raises:
        UsageError: If a surface has nothing to join into a landscape.
    """
    assert request.quantity is not None  # only curves do without
    quantity = describe(request.quantity)
    planes = [checked(surface, request) for surface in request.surfaces]
    scale = common_scale(planes, quantity, request)
    assert scale is not None  # `checked` found finite cells
    figure, axes = page.sheet(len(planes), request.style, 0.82, projection="3d")
    for panel, plane, surface in zip(axes, planes, request.surfaces, strict=True):
        _landscape(cast(Axes3D, panel), plane, scale, request)
        _frame(cast(Axes3D, panel), plane, scale, request.style)
        behind = _marks(cast(Axes3D, panel), surface, plane, scale, request)
        page.caption(panel, surface, top=TOP)
        said = notes(plane, scale, request) + ([BEHIND] if behind else [])
        page.note(panel, said, _drop(panel))
    colors = colormaps[request.style.colormap]
    mappable = ScalarMappable(Normalize(*scale.span), colors)
    cast(Any, mappable.cmap).colorbar_extend = scale.extend  # typed as a flag, is a word
    made = page.bar(figure, mappable, axes, scale, quantity, shrink=0.62, pad=0.06, most=8)
    made.ax.set_anchor((0.0, 0.5))
    page.settle(figure)
    return figure


def checked(surface: Surface, request: Request) -> Plane:
    """Return what a landscape of a surface is made of.

    Raises:
        UsageError: If there is nothing to join into a landscape.
    """
    assert request.quantity is not None  # only curves do without
    plane = cells.plane(surface, describe(request.quantity))
    plane = plane if request.filled else cells.joined(plane)
    check(surface.source, plane, request)
    return plane


def box(plane: Plane) -> tuple[float, float]:
    """Return width and depth of a landscape's base, the longer of them 1."""
    share = float(np.clip(_depth(plane), LEAST, 1 / LEAST))
    return (1.0, share) if share <= 1 else (1.0 / share, 1.0)


def _depth(plane: Plane) -> float:
    alpha, beta = plane.whole
    return float((beta[-1] - beta[0]) / (alpha[-1] - alpha[0]))


def is_to_scale(plane: Plane) -> bool:
    """Whether alpha and beta have one scale on the base, which is never a mere strip."""
    return LEAST <= _depth(plane) <= 1 / LEAST


def heights(plane: Plane, scale: Scale, request: Request) -> Floats:
    """Return scaled heights, held to the scale; NaN where nothing is drawn; (B, A)."""
    values = plane.filled if request.filled else plane.values
    return np.asarray(np.clip(scale.forward(values), *scale.span))


def _landscape(axes: Axes3D, plane: Plane, scale: Scale, request: Request) -> None:
    """Add the quads whose four corners have values; others stay open."""
    (low, high), style = scale.span, request.style
    height_BA = heights(plane, scale, request)
    x, y, z_BA = _finer(plane.alpha, plane.beta, height_BA)
    light_BA = _light(x, y, z_BA * (style.relief / (high - low)))
    grid = np.meshgrid(x, y)
    corners = [_corners(a) for a in (*grid, z_BA)]
    quads_Q4 = np.stack(corners, axis=-1).reshape(-1, 4, 3)
    height_Q = _corners(z_BA).mean(axis=-1).ravel()
    light_Q = _corners(light_BA).mean(axis=-1).ravel()
    whole = np.isfinite(quads_Q4).all(axis=(1, 2)) & np.isfinite(light_Q)
    color = colormaps[style.colormap](Normalize(low, high)(height_Q[whole]))
    if request.filled:  # what stands in for a cell is lighter
        *_, faded_BA = _finer(plane.alpha, plane.beta, plane.missing.astype(np.float64))
        faded_Q = (_corners(faded_BA).max(axis=-1).ravel() > 0)[whole]
        color[faded_Q, :3] += FADE * (np.array(to_rgb(style.ground)) - color[faded_Q, :3])
    color[:, :3] = _lit(color[:, :3], light_Q[whole])
    # Antialiased quads would show hairlines between each other.
    mesh = Poly3DCollection(quads_Q4[whole], facecolors=color, linewidths=0, antialiased=False)
    mesh.set_rasterized(True)
    axes.add_collection3d(mesh, autolim=False)


def _corners(values: Floats) -> Floats:
    """Return the four corners of each quad in order around it; (rows - 1, columns - 1, 4)."""
    return np.stack((values[:-1, :-1], values[:-1, 1:], values[1:, 1:], values[1:, :-1]), axis=-1)


def _finer(x: Floats, y: Floats, z_BA: Floats) -> tuple[Floats, Floats, Floats]:
    """Split quads bilinearly, which changes the shading only, not the shape."""
    parts = max(1, min(4, MESH // max(z_BA.shape)))
    fine_x, fine_y = _split(x, parts), _split(y, parts)
    along = np.apply_along_axis(lambda row: np.interp(fine_x, x, row), 1, z_BA)
    return fine_x, fine_y, np.apply_along_axis(lambda row: np.interp(fine_y, y, row), 0, along)


def _split(axis: Floats, parts: int) -> Floats:
    fine = np.interp(np.arange((axis.size - 1) * parts + 1) / parts, np.arange(axis.size), axis)
    return np.asarray(fine)


def _light(x: Floats, y: Floats, z_BA: Floats) -> Floats:
    """Return the cosine between the ground's normal and the lamp, in the box's proportions."""
    width, depth = x[-1] - x[0], y[-1] - y[0]
    by_y, by_x = np.gradient(z_BA, y / depth, x / width)
    normal = np.stack((-by_x, -by_y, np.ones_like(z_BA)), axis=-1)
    cosine = normal @ (LIGHT / np.linalg.norm(LIGHT)) / np.linalg.norm(normal, axis=-1)
    return np.asarray(np.clip(cosine, 0.0, 1.0))


def _lit(color: NDArray[Any], light: Floats) -> NDArray[Any]:
    """Shade a colour: ambient and diffuse light, and a soft highlight."""
    shaded = color * (0.42 + 0.62 * light[:, None])
    return np.asarray(np.clip(shaded + 0.16 * light[:, None] ** 18, 0.0, 1.0))


def _frame(axes: Axes3D, plane: Plane, scale: Scale, style: Style) -> None:
    alpha, beta = plane.whole
    camera = style.camera
    axes.set_box_aspect((*box(plane), style.relief), zoom=camera.zoom)
    axes.set(xlim=(alpha[0], alpha[-1]), ylim=(beta[0], beta[-1]), zlim=scale.span)
    axes.view_init(elev=camera.elevation, azim=camera.azimuth)
    axes.set_proj_type("persp", focal_length=1.6)
    pad = 0.5 * float(axes.xaxis.label.get_fontsize()) - 6.0
    axes.set_xlabel(r"$\alpha$", labelpad=pad + 1.0)
    axes.set_ylabel(r"$\beta$", labelpad=pad + 5.0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2.5, 5, 10]))
    low, high = scale.span
    ticks = scale.labelled(HEIGHTS)  # without one at the floor, where the numbers of beta are
    ticks = ticks[scale.forward(ticks) > low + 0.05 * (high - low)]
    axes.set_zticks(scale.forward(ticks))
    axes.set_zticklabels([scale.tick_text(float(tick), ticks) for tick in ticks])
    axes.tick_params(pad=-1)
    axes.tick_params(axis="z", pad=2)
    # At the corner in front the last number of one axis and the first of the other would meet.
    for axis, side in ((axes.xaxis, "right"), (axes.yaxis, "left")):
        for label in axis.get_ticklabels():
            label.set_horizontalalignment(side)
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.set_pane_color(style.ground)
        axis.line.set_color(style.faint)
        axis._axinfo["grid"].update({"color": style.faint, "linewidth": 0.3})


def places(surface: Surface, plane: Plane, scale: Scale, request: Request) -> list[Marker]:
    """Return the centre and the other minima that lie on a landscape, with their heights.

    Names are given where there is more than the centre.
    """
    height_BA = heights(plane, scale, request)
    at = np.array([(0.0, 0.0), *surface.marked_minima])
    z = cells.at_place(plane, height_BA, *at.T)
    (left, right), (near, far) = plane.alpha[[0, -1]], plane.beta[[0, -1]]
    names = ["centre", *page.ordinal_minima(len(at) - 1)] if len(at) > 1 else [""]
    return [
        Marker(float(a), float(b), float(height), name, "D" if index else "+")
        for index, ((a, b), height, name) in enumerate(zip(at, z, names, strict=True))
        if left <= a <= right and near <= b <= far and np.isfinite(height)
    ]


def based(points: Floats, plane: Plane, scale: Scale, style: Style) -> Floats:
    """Return points (..., 3) of alpha, beta and scaled height over a base 1 wide."""
    (alpha, beta), (low, high) = plane.whole, scale.span
    start = np.array([alpha[0], beta[0], low])
    reach = np.array([alpha[-1], beta[-1], high]) - start
    return np.asarray((points - start) / reach * (*box(plane), style.relief))


def _marks(axes: Axes3D, surface: Surface, plane: Plane, scale: Scale, request: Request) -> bool:
    """Mark the centre and other minima; return whether the surface hides one of them.

    Of a hidden one a dotted line goes up to where it leaves the surface.
    """
    size, style = float(axes.xaxis.label.get_fontsize()), request.style
    axes.computed_zorder = False
    found = places(surface, plane, scale, request)
    if not found:
        return False
    grid = np.stack([*np.meshgrid(plane.alpha, plane.beta), heights(plane, scale, request)], -1)
    mesh = based(grid, plane, scale, style)
    parts = mesh[0, :, 0], mesh[:, 0, 1], mesh[..., 2]
    eye = based(_eye(axes), plane, scale, style)
    points = based(np.array([(p.alpha, p.beta, p.height) for p in found]), plane, scale, style)
    behind = hidden(*parts, points, eye)
    for place, point, is_behind in zip(found, points, behind, strict=True):
        at, seen = (place.alpha, place.beta, place.height), PALE if is_behind else 1.0
        if is_behind:
            low, high = scale.span
            top = low + (high - low) * clearance(*parts, point, eye) / style.relief
            line = [*([value] * 2 for value in at[:2]), [place.height, top]]
            axes.plot(*line, **leader(style))
        for width, color in ((2.4, style.ground), (1.1, style.ink)):
            look = {"marker": place.marker, "markersize": 5.0, "markerfacecolor": "none"}
            look |= {"markeredgecolor": color, "markeredgewidth": width, "alpha": seen}
            axes.plot(*([value] for value in at), **look, zorder=5)
        if place.name:
            word = axes.text(*at, f" {place.name}", fontsize=size * 0.82, zorder=6, va="bottom")
            word.set(alpha=seen)
            word.set_path_effects([withStroke(linewidth=2.0, foreground=style.ground)])
    return bool(behind.any())


def leader(style: Style) -> dict[str, Any]:
    """Return the look of the line from a hidden mark up to where it leaves the surface."""
    dots = {"linestyle": (0, (1.5, 2.0)), "linewidth": 1.1, "color": style.ink}
    halo = withStroke(linewidth=2.4, foreground=style.ground)
    return {**dots, "path_effects": [halo], "alpha": PALE, "zorder": 5}


def _eye(axes: Axes3D) -> Floats:
    """Return where the camera stands: the one point that the projection sends nowhere; (3,)."""
    *_, still = np.linalg.svd(axes.get_proj()[[0, 1, 3]])[2]
    return np.asarray(still[:3] / still[3])


def _drop(axes: Axes) -> float:
    return float(axes.xaxis.label.get_fontsize()) * 0.3


def notes(plane: Plane, scale: Scale, request: Request) -> list[str]:
    """Return what a reader must know to take the picture for what it is."""
    missing = STANDS_IN if request.filled else plane.coarse or "left open"
    hidden = page.about_cells(plane.tally, hatched=missing, bad="left open")
    hidden += [] if is_to_scale(plane) else [NOT_TO_SCALE]
    return hidden + page.about_clipping(plane.finite, scale)
