"""A trained curve between two minima, drawn in the plane of its ends and a bend.

Shape suffixes: S samples of the curve, C control points.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from lsengine.render.planes import trajectory
from lsengine.render.style.styles import Style
from lsengine.surface import PlaneCurve


def add(axes: Axes, curve: PlaneCurve, style: Style) -> None:
    """Draw curve and straight line, mark minima and bends, and name the axes."""
    ends = curve.controls[[0, -1]]
    ways: tuple[tuple[Any, Any, float], ...] = (
        (ends, (0, (3.0, 2.0)), 1.2),
        (curve.points, "solid", 1.7),
    )
    for places, dashes, width in ways:
        look: dict[str, Any] = {"solid_capstyle": "round", "dash_capstyle": "butt", "zorder": 4.0}
        for color, more, line in ((style.ground, 1.7, "solid"), (style.ink, 0.0, dashes)):
            axes.plot(*places.T, color=color, linewidth=width + more, linestyle=line, **look)
    for places, marker, size, color in (
        (ends, "D", 6.0, style.ink),
        (curve.controls[1:-1], "o", 5.5, style.ground),
    ):
        axes.plot(
            *places.T,
            marker,
            color=color,
            markersize=size,
            markeredgecolor=style.ground if color == style.ink else style.ink,
            markeredgewidth=1.0,
            linestyle="none",
            zorder=5,
            clip_on=False,
        )
    axes.set_xlabel("along the line between the minima")
    axes.set_ylabel("away from it")


def finish(axes: Axes, curve: PlaneCurve, style: Style) -> None:
    """Name the points; call when the page is settled."""
    bends = len(curve.controls) - 2
    words = ["bend"] if bends == 1 else [f"bend {number + 1}" for number in range(bends)]
    lines = [
        trajectory.in_points(axes, places) for places in (curve.points, curve.controls[[0, -1]])
    ]
    for word, at in zip(["minimum 1", *words, "minimum 2"], curve.controls, strict=True):
        trajectory.label(axes, word, at, lines, style)


def notes(curve: PlaneCurve) -> list[str]:
    """Return what a reader must know beside the picture."""
    lines = ["solid: the trained curve; dashed: the straight line"]
    extent = float(np.hypot(*(curve.controls[-1] - curve.controls[0])))
    share = float(curve.distance.max()) / extent if extent else 0.0
    if share > 0.005:
        lines.append(
            f"bends lie off the plane by up to {100 * share:.0f} % of the way between the minima"
        )
    return lines
