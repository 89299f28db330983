"""The plane as a landscape: height is the quantity, shaded, seen from above at an angle.

Shape suffixes: B betas, A alphas, Q quads of the mesh.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from mpl_toolkits.mplot3d.art3d import Poly3DCollection  # type: ignore[import-untyped]
from mpl_toolkits.mplot3d.axes3d import Axes3D  # type: ignore[import-untyped]
from numpy.typing import NDArray

from lsengine.render import cells, page
from lsengine.render.cells import Plane
from lsengine.render.planes import check, common_scale
from lsengine.render.quantities import Quantity, describe
from lsengine.render.request import Request
from lsengine.render.scales import Scale
from lsengine.render.styles import Style

Floats = NDArray[np.float64]

HEIGHT = 0.62  # of the box, its base being 1 wide
ELEVATION, AZIMUTH = 32.0, -56.0  # degrees
TOP = 0.93  # of the axes: where the scene ends and words may begin
LIGHT = np.array([-0.55, -0.35, 0.76])  # towards the lamp, over the viewer's left shoulder
HEIGHTS = 6  # numbers on the vertical axis at most
MESH = 110  # quads along an axis after which finer shading is not seen


def draw(request: Request) -> Figure:
    """Draw every surface of the request as a landscape, on one scale.

    Raises:
        UsageError: If a surface has nothing to join into a landscape.
    """
    assert request.quantity is not None  # only curves do without
    quantity = describe(request.quantity)
    planes = [cells.joined(cells.plane(s, quantity)) for s in request.surfaces]
    for surface, plane in zip(request.surfaces, planes, strict=True):
        check(surface.source, plane, request)
    scale = common_scale(planes, quantity, request)
    assert scale is not None  # `check` found finite cells
    figure, axes = page.sheet(len(planes), request.style, 0.82, projection="3d")
    for panel, plane, surface in zip(axes, planes, request.surfaces, strict=True):
        _landscape(cast(Axes3D, panel), plane, scale, request.style)
        _frame(cast(Axes3D, panel), plane, scale, quantity, request.style)
        page.caption(panel, surface, top=TOP)
        page.note(panel, _notes(plane, scale), _drop(panel))
    colors = colormaps[request.style.colormap]
    mappable = ScalarMappable(Normalize(*scale.span), colors)
    cast(Any, mappable.cmap).colorbar_extend = scale.extend  # typed as a flag, is a word
    made = page.bar(figure, mappable, axes, scale, quantity, shrink=0.62, pad=0.06, most=8)
    made.ax.set_anchor((0.0, 0.5))
    page.settle(figure)
    return figure


def _landscape(axes: Axes3D, plane: Plane, scale: Scale, style: Style) -> None:
    """Add the quads whose four corners have values; others stay open."""
    low, high = scale.span
    height_BA = np.clip(scale.forward(plane.values), low, high)
    x, y, z_BA = _finer(plane.alpha, plane.beta, height_BA)
    light_BA = _light(x, y, z_BA, high - low)
    grid = np.meshgrid(x, y)
    corners = [_corners(a) for a in (*grid, z_BA)]
    quads_Q4 = np.stack(corners, axis=-1).reshape(-1, 4, 3)
    height_Q = _corners(z_BA).mean(axis=-1).ravel()
    light_Q = _corners(light_BA).mean(axis=-1).ravel()
    whole = np.isfinite(quads_Q4).all(axis=(1, 2)) & np.isfinite(light_Q)
    color = colormaps[style.colormap](Normalize(low, high)(height_Q[whole]))
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


def _light(x: Floats, y: Floats, z_BA: Floats, rise: float) -> Floats:
    """Return the cosine between the ground's normal and the lamp, in the box's proportions."""
    width, depth = x[-1] - x[0], y[-1] - y[0]
    by_y, by_x = np.gradient(z_BA * (HEIGHT / rise), y / depth, x / width)
    normal = np.stack((-by_x, -by_y, np.ones_like(z_BA)), axis=-1)
    cosine = normal @ (LIGHT / np.linalg.norm(LIGHT)) / np.linalg.norm(normal, axis=-1)
    return np.asarray(np.clip(cosine, 0.0, 1.0))


def _lit(color: NDArray[Any], light: Floats) -> NDArray[Any]:
    """Shade a colour: ambient and diffuse light, and a soft highlight."""
    shaded = color * (0.42 + 0.62 * light[:, None])
    return np.asarray(np.clip(shaded + 0.16 * light[:, None] ** 18, 0.0, 1.0))


def _frame(axes: Axes3D, plane: Plane, scale: Scale, quantity: Quantity, style: Style) -> None:
    alpha, beta = plane.whole
    width, depth = float(alpha[-1] - alpha[0]), float(beta[-1] - beta[0])
    share = float(np.clip(depth / width, 0.35, 1 / 0.35))
    base = (1.0, share) if share <= 1 else (1.0 / share, 1.0)
    axes.set_box_aspect((*base, HEIGHT), zoom=1.0)
    axes.set(xlim=(alpha[0], alpha[-1]), ylim=(beta[0], beta[-1]), zlim=scale.span)
    axes.view_init(elev=ELEVATION, azim=AZIMUTH)
    axes.set_proj_type("persp", focal_length=1.6)
    pad = 0.5 * float(axes.xaxis.label.get_fontsize()) - 6.0
    axes.set_xlabel(r"$\alpha$", labelpad=pad)
    axes.set_ylabel(r"$\beta$", labelpad=pad)
    for axis in (axes.xaxis, axes.yaxis):  # numbers at the corners would meet each other
        axis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2.5, 5, 10], prune="both"))
    ticks = scale.labelled(HEIGHTS)
    axes.set_zticks(scale.forward(ticks))
    axes.set_zticklabels([scale.text(float(tick)) for tick in ticks])
    axes.tick_params(pad=-1)
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.set_pane_color(style.ground)
        axis.line.set_color(style.faint)
        axis._axinfo["grid"].update({"color": style.faint, "linewidth": 0.3})


def _drop(axes: Axes) -> float:
    return float(axes.xaxis.label.get_fontsize()) * 0.3


def _notes(plane: Plane, scale: Scale) -> list[str]:
    hidden = page.about_cells(plane.tally, hatched=plane.coarse or "left open", bad="left open")
    return hidden + page.about_clipping(plane.finite, scale)
