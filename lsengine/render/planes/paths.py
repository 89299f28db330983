"""Ways drawn over a plane: trajectories, and trained curves between two minima.

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

from lsengine.render.page import page
from lsengine.render.style import Style
from lsengine.surface import PlaneCurve, Surface, Trajectory
from lsengine.surface.cells import Floats

RED = "#e3242b"
SMALL = 0.68  # size of an axis' name in a narrow panel, in that of others
_ARROW_LENGTH = 14.0  # points; shorter steps have no room for an arrow


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnPath:
    """The path of a trajectory on a page, which can be shown as far as some checkpoint."""

    axes: Axes
    trajectory: Trajectory
    style: Style
    lines: tuple[Line2D, ...]  # the path, its ground first
    dots: Line2D  # checkpoints
    head: Line2D  # the last one shown
    reds: Line2D  # where the learning rate drops

    @property
    def points(self) -> Floats:
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
            word = f"{self.trajectory.unit} {self.trajectory.columns['epoch'][index]}"
            label(self.axes, word, path_T2[index], [on_page_T2], self.style)

    def clock(self) -> Text:
        """Add words for the epoch shown, in the corner of the axes farthest from the path."""
        inside_T2 = self.axes.transLimits.transform(self.points)
        corners = [(x, y) for y in (0.94, 0.06) for x in (0.97, 0.03)]
        x, y = max(corners, key=lambda c: float(np.hypot(*(inside_T2 - c).T).min()))
        look: dict[str, Any] = {"color": self.style.ink, "zorder": 8}
        look |= {"ha": "right" if x > 0.5 else "left", "va": "top" if y > 0.5 else "bottom"}
        look["path_effects"] = page.halo(self.style.ground)
        return self.axes.annotate("", (x, y), xycoords="axes fraction", **look)


def add(axes: Axes, surface: Surface, style: Style, *, cut: bool = False) -> DrawnPath:
    """Draw the path of a surface's trajectory, and name the axes by what they explain.

    Marks beyond the axes are whole, unless the plane is ``cut``.
    """
    trajectory = surface.trajectory
    assert trajectory is not None  # the request was checked
    x_T, y_T = trajectory.columns["alpha"], trajectory.columns["beta"]
    drops_T = trajectory.lr_drops
    rounded: dict[str, Any] = {"solid_capstyle": "round", "solid_joinstyle": "round"}
    lines = tuple(
        axes.plot(x_T, y_T, "-", color=color, linewidth=width, zorder=zorder, **rounded)[0]
        for width, color, zorder in ((2.8, style.ground, 4.0), (1.2, style.ink, 4.1))
    )
    looks = (
        (x_T, y_T, "o", 3.6, style.ink),
        (x_T[:1], y_T[:1], "s", 5.2, style.ink),
        (x_T[drops_T], y_T[drops_T], "o", 6.6, RED),
        (x_T[-1:], y_T[-1:], "*", 11.0, style.ink),  # the last: late steps are short
    )
    marks = []
    for step, (x, y, marker, size, color) in enumerate(looks):
        look: dict[str, Any] = {"markersize": size, "markeredgecolor": style.ground}
        look |= {"markeredgewidth": 0.7, "zorder": 5 + 0.1 * step, "clip_on": cut}
        marks += axes.plot(x, y, marker, color=color, linestyle="none", **look)
    # A line without points counts as one at the page's corner, and would press the axes together.
    dots, _, reds, head = marks
    reds.set_in_layout(False)  # wherever it has points, so have the dots
    _name_axes(axes, trajectory)
    return DrawnPath(
        axes=axes, trajectory=trajectory, style=style, lines=lines, dots=dots, head=head, reds=reds
    )


def label(axes: Axes, word: str, at: Floats, lines_on_page: Sequence[Floats], style: Style) -> None:
    """Put a word beside a point, inside the axes and off lines; call when the page is settled."""
    size = page.letter(axes) * 0.82
    middle = in_points(axes, at[None])[0]
    beside = _clear_of(axes, lines_on_page, middle, (0.56 * size * len(word), size))
    place = (float(at[0]), float(at[1]))
    page.name_point(axes, word, place, beside, style, ha="center", va="center", zorder=8)


def shrink(axes: Axes) -> None:
    """Fit the names of the axes into a panel that is narrower than they are."""
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_fontsize(SMALL * float(axis.label.get_fontsize()))
    axes.locator_params(nbins=3)


def in_points(axes: Axes, places: Floats) -> Floats:
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


def _point_the_way(axes: Axes, path_T2: Floats, on_page_T2: Floats, style: Style) -> None:
    """Put an arrow on the middle of every step that has room for one."""
    length = np.hypot(*np.diff(on_page_T2, axis=0).T)
    for step in np.flatnonzero(length > _ARROW_LENGTH):
        start, stop = path_T2[step], path_T2[step + 1]
        at, before = start + 0.5 * (stop - start), start + 0.49 * (stop - start)
        look: dict[str, Any] = {"arrowstyle": "-|>", "color": style.ink, "linewidth": 0.6}
        look |= {"shrinkA": 0, "shrinkB": 0, "mutation_scale": 8.0}
        axes.annotate("", (at[0], at[1]), (before[0], before[1]), arrowprops=look, zorder=4.5)


def _clear_of(
    axes: Axes, lines_on_page: Sequence[Floats], at: Floats, size: tuple[float, float]
) -> tuple[float, float]:
    """Return where to put words of some width and height beside a point, in points of the page."""
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
    # On a flat page the second in one line would be longer than the axis.
    texts = (("xlabel", "1st principal component"), ("ylabel", "2nd principal\ncomponent"))
    for (side, text), share in zip(texts, np.atleast_1d(shares), strict=False):
        axes.set(**{side: f"{text}: {100 * share:.1f} %"})


def add_curve(axes: Axes, curve: PlaneCurve, style: Style, *, cut: bool = False) -> None:
    """Draw curve and straight line, mark minima and bends, and name the axes."""
    ends = curve.controls[[0, -1]]
    ways: Any = ((ends, (0, (3.0, 2.0)), 1.2), (curve.points, "solid", 1.7))
    for places, dashes, width in ways:
        look: dict[str, Any] = {"solid_capstyle": "round", "dash_capstyle": "butt", "zorder": 4.0}
        for color, more, line in ((style.ground, 1.7, "solid"), (style.ink, 0.0, dashes)):
            axes.plot(*places.T, color=color, linewidth=width + more, linestyle=line, **look)
    minima, bends = (ends, "D", 6.0), (curve.controls[1:-1], "o", 5.5)
    inks = ((style.ink, style.ground), (style.ground, style.ink))
    for (places, marker, size), (fill, edge) in zip((minima, bends), inks, strict=True):
        look = {"color": fill, "markeredgecolor": edge, "markersize": size, "markeredgewidth": 1.0}
        axes.plot(*places.T, marker, linestyle="none", zorder=5, clip_on=cut, **look)
    axes.set(xlabel="along the line between the minima", ylabel="away from it")


def finish_curve(axes: Axes, curve: PlaneCurve, style: Style) -> None:
    """Name the points; call when the page is settled."""
    bends = len(curve.controls) - 2
    words = ["bend"] if bends == 1 else [f"bend {number + 1}" for number in range(bends)]
    lines = [in_points(axes, places) for places in (curve.points, curve.controls[[0, -1]])]
    for word, at in zip(["minimum 1", *words, "minimum 2"], curve.controls, strict=True):
        label(axes, word, at, lines, style)


def curve_notes(curve: PlaneCurve) -> list[str]:
    """Return what a reader must know beside the picture."""
    lines = ["solid: the trained curve; dashed: the straight line"]
    extent = float(np.hypot(*(curve.controls[-1] - curve.controls[0])))
    share = float(curve.distance.max()) / extent if extent else 0.0
    if share > 0.005:
        lines.append(
            f"bends lie off the plane by up to {100 * share:.0f} % of the way between the minima"
        )
    return lines
