"""Trajectories drawn over a plane: the path, its checkpoints, where the learning rate dropped.

Shape suffix: T checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.text import Text
from numpy.typing import NDArray

from lsengine.render.page import page
from lsengine.render.style.styles import Style
from lsengine.surface import Surface, Trajectory

RED = "#e3242b"
Points = NDArray[np.float64]
SMALL = 0.68  # size of an axis' name in a narrow panel, in that of others
_ORDINALS = {"alpha": "1st", "beta": "2nd"}
_ARROW_LENGTH = 14.0  # points; shorter steps have no room for an arrow


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnPath:
    """The path of a trajectory on a page, which can be shown as far as some checkpoint.

    Attributes:
        axes: Where.
        trajectory: What.
        style: The look.
        lines: The path, its ground first.
        dots, head, reds: Checkpoints, the last one shown, and drops of the learning rate.
    """

    axes: Axes
    trajectory: Trajectory
    style: Style
    lines: tuple[Line2D, ...]
    dots: Line2D
    head: Line2D
    reds: Line2D

    @property
    def points(self) -> Points:
        """Alpha and beta of all checkpoints; (T, 2)."""
        return np.stack([self.trajectory.columns["alpha"], self.trajectory.columns["beta"]], axis=1)

    def reveal(self, count: int) -> None:
        """Show the first ``count`` checkpoints, at least one, and no others."""
        path_T2, drops_T = self.points[:count], self.trajectory.lr_drops[:count]
        for line in (*self.lines, self.dots):
            line.set_data(path_T2[:, 0], path_T2[:, 1])
        self.head.set_data(path_T2[-1:, 0], path_T2[-1:, 1])
        self.reds.set_data(path_T2[drops_T, 0], path_T2[drops_T, 1])

    def finish(self) -> None:
        """Add arrows and the epochs of both ends; call when the page is settled."""
        path_T2 = self.points
        on_page_T2 = in_points(self.axes, path_T2)
        _point_the_way(self.axes, path_T2, on_page_T2, self.style)
        for index in {0: 0, len(path_T2) - 1: -1}:
            word = f"epoch {self.trajectory.columns['epoch'][index]}"
            label(self.axes, word, path_T2[index], [on_page_T2], self.style)

    def clock(self) -> Text:
        """Add words for the epoch shown, in the corner of the axes farthest from the path."""
        inside_T2 = self.axes.transLimits.transform(self.points)
        corners = [(x, y) for y in (0.94, 0.06) for x in (0.97, 0.03)]
        x, y = max(corners, key=lambda c: float(np.hypot(*(inside_T2 - c).T).min()))
        return self.axes.annotate(
            "",
            (x, y),
            xycoords="axes fraction",
            ha="right" if x > 0.5 else "left",
            va="top" if y > 0.5 else "bottom",
            color=self.style.ink,
            zorder=8,
            path_effects=page.halo(self.style.ground),
        )


def add(axes: Axes, surface: Surface, style: Style) -> DrawnPath:
    """Draw the path of a surface's trajectory, and name the axes by what they explain."""
    trajectory = surface.trajectory
    assert trajectory is not None  # the request was checked
    x_T, y_T = trajectory.columns["alpha"], trajectory.columns["beta"]
    drops_T = trajectory.lr_drops
    lines = [
        axes.plot(x_T, y_T, "-", color=color, linewidth=width, zorder=zorder, **_ROUND)[0]
        for width, color, zorder in ((2.8, style.ground, 4.0), (1.2, style.ink, 4.1))
    ]
    looks = (
        (x_T, y_T, "o", 3.6, style.ink),
        (x_T[:1], y_T[:1], "s", 5.2, style.ink),
        (x_T[drops_T], y_T[drops_T], "o", 6.6, RED),
        (x_T[-1:], y_T[-1:], "*", 11.0, style.ink),  # the last: late steps are short
    )
    marks = []
    for step, (x, y, marker, size, color) in enumerate(looks):
        look: dict[str, Any] = {"markersize": size, "markeredgecolor": style.ground}
        look |= {"markeredgewidth": 0.7, "zorder": 5 + 0.1 * step, "clip_on": False}
        marks += axes.plot(x, y, marker, color=color, linestyle="none", **look)
    # A line without points counts as one at the page's corner, and would press the axes together.
    dots, _, reds, head = marks
    reds.set_in_layout(False)  # wherever it has points, so have the dots
    _name_axes(axes, trajectory)
    return DrawnPath(
        axes=axes,
        trajectory=trajectory,
        style=style,
        lines=tuple(lines),
        dots=dots,
        head=head,
        reds=reds,
    )


_ROUND: dict[str, Any] = {"solid_capstyle": "round", "solid_joinstyle": "round"}


def label(axes: Axes, word: str, at: Points, lines_on_page: Sequence[Points], style: Style) -> None:
    """Put a word beside a point, inside the axes and off lines; call when the page is settled.

    Args:
        axes: Where.
        word: What.
        at: Alpha and beta.
        lines_on_page: What to keep off, by `in_points`.
        style: The look.
    """
    size = page.letter(axes) * 0.82
    middle = in_points(axes, at[None])[0]
    axes.annotate(
        word,
        (float(at[0]), float(at[1])),
        xytext=_clear_of(axes, lines_on_page, middle, (0.56 * size * len(word), size)),
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=size,
        color=style.ink,
        zorder=8,
        path_effects=page.halo(style.ground),
    )


def shrink(axes: Axes) -> None:
    """Fit the names of the axes into a panel that is narrower than they are."""
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_fontsize(SMALL * float(axis.label.get_fontsize()))
    axes.locator_params(nbins=3)


def in_points(axes: Axes, places: Points) -> Points:
    """Return where data coordinates (N, 2) are on the page, in points; once it is settled."""
    return np.asarray(axes.transData.transform(places) * 72.0 / page.root(axes).dpi)


def notes(surface: Surface, *, narrow: bool = False) -> list[str]:
    """Return what a reader must know of a trajectory beside the picture."""
    trajectory = surface.trajectory
    assert trajectory is not None
    lines = []
    if trajectory.lr_drops.any():
        after = "" if narrow else " after this checkpoint"
        lines.append(f"red: the learning rate drops{after}")
    distance_T, length_T = (trajectory.columns.get(name) for name in ("distance", "length"))
    if distance_T is not None and length_T is not None and length_T.max() > 0:
        percent = f"{100 * distance_T.max() / length_T.max():.0f} %"
        of_what = "" if narrow else " of the path's extent"
        lines.append(f"off the plane by up to {percent}{of_what}")
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
    axes: Axes, lines_on_page: Sequence[Points], at: Points, size: tuple[float, float]
) -> tuple[float, float]:
    """Return where to put words beside a point, all in points of the page.

    Args:
        axes: Where.
        lines_on_page: What to keep off.
        at: The point.
        size: Width and height of the words.
    """
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    corners = in_points(axes, np.array([[left, bottom], [right, top]]))
    share = np.linspace(0, 1, 16)[:, None, None]  # fine enough to be hit
    along = [line[:-1] + share * np.diff(line, axis=0) for line in lines_on_page]
    places = np.concatenate([place.reshape(-1, 2) for place in along])
    half = np.array(size) / 2
    best, least = (0.0, 0.0), np.inf
    for angle in np.arange(8) * np.pi / 4 + np.pi / 2:
        way = np.array([np.cos(angle), np.sin(angle)])
        offset = way / np.abs(way).max() * (half + 5.0)  # beside a mark also at a corner
        middle = at + offset
        beyond = np.maximum(corners[0] + half - middle, middle + half - corners[1]).max()
        hits = (np.abs(places - middle) < half + 2.0).all(axis=1).mean() if len(places) else 0.0
        cost = max(0.0, float(beyond) + 2.0) + 100.0 * float(hits)
        if cost < least:
            best, least = (float(offset[0]), float(offset[1])), cost
    return best


def _name_axes(axes: Axes, trajectory: Trajectory) -> None:
    shares = trajectory.attributes.get("explained_variance_ratio")
    if shares is None:
        return
    named = [name for name in ("alpha", "beta") if name in trajectory.columns]
    for name, share in zip(named, np.atleast_1d(shares), strict=False):
        label = f"{_ORDINALS[name]} principal component: {100 * share:.1f} %"
        if name == "beta":  # on a flat page one line would be longer than the axis
            label = label.replace(" component", "\ncomponent")
        axes.set(**{"xlabel" if name == "alpha" else "ylabel": label})
