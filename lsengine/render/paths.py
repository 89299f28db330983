"""Trajectories drawn over a plane: the path, its checkpoints, where the learning rate dropped.

Shape suffix: T checkpoints.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from numpy.typing import NDArray

from lsengine.render.styles import Style
from lsengine.surface import Surface, Trajectory

RED = "#e3242b"
Points = NDArray[np.float64]
_ORDINALS = {"alpha": "1st", "beta": "2nd"}
_ARROW_LENGTH = 14.0  # points; shorter steps have no room for an arrow


def add(axes: Axes, surface: Surface, style: Style) -> None:
    """Draw the path of a surface's trajectory, and name the axes by what they explain."""
    track = surface.trajectory
    assert track is not None  # the request was checked
    x_T, y_T, drops_T = track.columns["alpha"], track.columns["beta"], track.drops
    for width, color, zorder in ((2.8, style.ground, 4.0), (1.2, style.ink, 4.1)):
        axes.plot(x_T, y_T, "-", color=color, linewidth=width, zorder=zorder, **_ROUND)
    looks = (
        (x_T, y_T, "o", 3.6, style.ink),
        (x_T[:1], y_T[:1], "s", 5.2, style.ink),
        (x_T[-1:], y_T[-1:], "*", 11.0, style.ink),
        (x_T[drops_T], y_T[drops_T], "o", 5.2, RED),
    )
    for step, (x, y, marker, size, color) in enumerate(looks):
        look: dict[str, Any] = {"markersize": size, "markeredgecolor": style.ground}
        look |= {"markeredgewidth": 0.7, "zorder": 5 + 0.1 * step, "clip_on": False}
        axes.plot(x, y, marker, color=color, linestyle="none", **look)
    _name_axes(axes, track)


_ROUND: dict[str, Any] = {"solid_capstyle": "round", "solid_joinstyle": "round"}


def finish(axes: Axes, surface: Surface, style: Style) -> None:
    """Add arrows and the epochs of both ends; call when the page is settled."""
    track = surface.trajectory
    assert track is not None
    path_T2 = np.stack([track.columns["alpha"], track.columns["beta"]], axis=1)
    figure = axes.get_figure(root=True)
    assert figure is not None
    on_page_T2 = axes.transData.transform(path_T2) * 72.0 / figure.dpi
    _point_the_way(axes, path_T2, on_page_T2, style)
    box = axes.get_window_extent()
    corners = np.array([[box.x0, box.y0], [box.x1, box.y1]]) * 72.0 / figure.dpi
    size = float(axes.xaxis.label.get_fontsize()) * 0.82
    for index in {0: 0, len(path_T2) - 1: -1}:
        word = f"epoch {track.columns['epoch'][index]}"
        offset = _clear_of(on_page_T2, index, corners, (0.56 * size * len(word), size))
        text = axes.annotate(
            word,
            (path_T2[index, 0], path_T2[index, 1]),
            xytext=offset,
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=size,
            color=style.ink,
            zorder=8,
        )
        text.set_path_effects([patheffects.withStroke(linewidth=2.0, foreground=style.ground)])


def notes(surface: Surface) -> list[str]:
    """Return what a reader must know of a trajectory beside the picture."""
    track = surface.trajectory
    assert track is not None
    lines = []
    if track.drops.any():
        lines.append("red: the learning rate drops after this checkpoint")
    distance_T, length_T = (track.columns.get(name) for name in ("distance", "length"))
    if distance_T is not None and length_T is not None and length_T.max() > 0:
        share = distance_T.max() / length_T.max()
        lines.append(f"checkpoints lie off the plane by up to {share:.0%} of the path's extent")
    return lines


def _point_the_way(axes: Axes, path_T2: Points, on_page_T2: Points, style: Style) -> None:
    """Put an arrow on the middle of every step that has room for one."""
    length = np.hypot(*np.diff(on_page_T2, axis=0).T)
    for step in np.flatnonzero(length > _ARROW_LENGTH):
        start, stop = path_T2[step], path_T2[step + 1]
        at, before = start + 0.5 * (stop - start), start + 0.49 * (stop - start)
        look: dict[str, Any] = {"arrowstyle": "-|>", "color": style.ink, "linewidth": 0.6}
        axes.annotate(
            "",
            (at[0], at[1]),
            xytext=(before[0], before[1]),
            arrowprops={**look, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 8.0},
            zorder=4.5,
        )


def _clear_of(
    on_page_T2: Points, index: int, corners: Points, size: tuple[float, float]
) -> tuple[float, float]:
    """Return where to put words beside a checkpoint: inside the axes and off the path.

    Args:
        on_page_T2: The path, in points.
        index: The checkpoint.
        corners: Lower left and upper right of the axes, in points.
        size: Width and height of the words.
    """
    share = np.linspace(0, 1, 16)[:, None, None]
    along = on_page_T2[:-1] + share * np.diff(on_page_T2, axis=0)  # fine enough to be hit
    half = np.array(size) / 2
    best, least = (0.0, 0.0), np.inf
    for angle in np.arange(8) * np.pi / 4 + np.pi / 2:
        way = np.array([np.cos(angle), np.sin(angle)])
        offset = way * (half + 6.0)
        middle = on_page_T2[index] + offset
        beyond = np.maximum(corners[0] + half - middle, middle + half - corners[1]).max()
        hits = (np.abs(along.reshape(-1, 2) - middle) < half + 2.0).all(axis=1).mean()
        cost = max(0.0, float(beyond) + 2.0) + 100.0 * float(hits)
        if cost < least:
            best, least = (float(offset[0]), float(offset[1])), cost
    return best


def _name_axes(axes: Axes, track: Trajectory) -> None:
    shares = track.attributes.get("explained_variance_ratio")
    if shares is None:
        return
    named = [name for name in ("alpha", "beta") if name in track.columns]
    for name, share in zip(named, np.atleast_1d(shares), strict=False):
        label = f"{_ORDINALS[name]} principal component: {100 * share:.1f} %"
        if name == "alpha":
            axes.set_xlabel(label)
        else:  # on a flat page one line would be longer than the axis
            axes.set_ylabel(label.replace(" component", "\ncomponent"))
