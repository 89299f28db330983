"""Numbers on contour lines: one for each level, on its longest line, apart from the others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.contour import QuadContourSet

from lsengine.render.page import page
from lsengine.render.page.scales import Scale
from lsengine.surface.cells import Floats

CANDIDATES = 60  # places tried along a line


def label_contours(axes: Axes, scale: Scale, marks: Sequence[tuple[float, float]] = ()) -> None:
    """Label the contour lines of an axes, apart from marks; call when the page is settled.

    Lines too short for their number stay without: a crowd of small islands would otherwise
    be a crowd of numbers.
    """
    for drawn in list(axes.collections):
        if isinstance(drawn, QuadContourSet) and not drawn.filled:
            _label(axes, drawn, scale, [np.array(mark) for mark in marks])


def _label(axes: Axes, drawn: QuadContourSet, scale: Scale, marks: list[Floats]) -> None:
    size = page.letter(axes) * 0.78
    pixel = page.root(axes).dpi / 72.0  # pixels in a point
    scaled = scale.forward(scale.levels)
    nearest = [int(np.abs(scaled - level).argmin()) for level in drawn.levels]
    texts = [scale.text(float(scale.levels[index])) for index in nearest]
    names = dict(zip(drawn.levels, texts, strict=True))
    taken: list[Floats] = [axes.transData.transform(mark) for mark in marks]
    spots: dict[float, tuple[float, float]] = {}
    for level, lines in zip(drawn.levels, drawn.allsegs, strict=True):
        # About how many characters wide a label is, math markup not counted.
        printed = names[level].replace(r"\times", "x").translate(dict.fromkeys(map(ord, "${}^")))
        width = pixel * size * (1.2 + 0.6 * len(printed))
        spot = _spot(axes, lines, width, taken)
        if spot is not None:
            taken.append(axes.transData.transform(spot))
            spots[float(level)] = (float(spot[0]), float(spot[1]))
    if not spots:
        return
    places = [*spots.values()]
    labels = drawn.clabel([*spots], manual=places, fmt=names, fontsize=size, inline_spacing=3)
    for label in labels or ():
        label.set_path_effects(page.halo(axes.get_facecolor(), 1.5))


def _spot(axes: Axes, lines: list[Floats], width: float, taken: list[Floats]) -> Floats | None:
    """Return where on the longest line a label of ``width`` pixels is clearest, if anywhere."""
    paths = [axes.transData.transform(line) for line in lines if len(line) > 1]
    lengths = [float(np.hypot(*np.diff(path, axis=0).T).sum()) for path in paths]
    if not lengths or max(lengths) < 2.2 * width:
        return None
    path = paths[int(np.argmax(lengths))]
    step = max(1, len(path) // CANDIDATES)
    box = axes.get_window_extent()
    low = np.array([box.x0, box.y0]) + 0.6 * width
    high = np.array([box.x1, box.y1]) - 0.6 * width
    inside = ((path > low) & (path < high)).all(axis=1)
    centre = axes.transAxes.transform((0.5, 0.5))
    best, score = None, 0.0
    for index in np.flatnonzero(inside)[::step]:
        place = path[index]
        others = np.array([*taken, centre])
        apart = float(np.hypot(*(others - place).T).min())
        room = min(apart / width, 2.5) - 2.0 * _bend(path, int(index), width)
        if apart > 1.15 * width and room > score:
            best, score = place, room
    if best is None:
        return None
    return np.asarray(axes.transData.inverted().transform(best))


def _bend(path: Floats, index: int, width: float) -> float:
    """Return how far a line is from straight within a label, 0 for straight, towards 1."""
    near = np.hypot(*(path - path[index]).T) < 0.6 * width
    first = last = index
    while first > 0 and near[first - 1]:
        first -= 1
    while last < len(path) - 1 and near[last + 1]:
        last += 1
    run = float(np.hypot(*np.diff(path[first : last + 1], axis=0).T).sum())
    return 1.0 - float(np.hypot(*(path[last] - path[first]))) / run if run else 0.0
