"""What pictures with lines have in common: sheet, grid, scale, title, legend and notes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lsengine.render.page import page, words
from lsengine.render.request import Request
from lsengine.render.style import Style


def sheet(panels: int, style: Style) -> tuple[Figure, list[Axes]]:
    """Return a figure whose panels are as high as the style has it, but not towers."""
    width = (style.width if panels == 1 else style.wide) / panels
    return page.sheet(panels, style, 0.68 * min(width, style.height * 1.45) / width)


def grid(axes: Axes, style: Style) -> None:
    """Draw a faint grid below the lines."""
    axes.set_axisbelow(True)
    axes.grid(True, linewidth=0.4, color=style.faint, alpha=0.5)


def room(low: float, high: float) -> float:
    """Return how far beyond its values a linear axis goes, a constant's, too."""
    return 0.04 * (high - low) or 0.05 * abs(high) or 0.5


def title(axes: list[Axes], name: str, facts: Sequence[str], request: Request) -> None:
    """Put name and facts of the only thing that is drawn over the only panel, or over all."""
    text = words.heading(name, facts, request.look)
    (words.title if len(axes) == 1 else words.over_all)(axes[0], text)


def lead(name: str, things: Sequence[object]) -> str:
    """Return how a note on one of several things begins: with its name."""
    return f"{page.printable(name)}: " if len(things) > 1 else ""


def entries(labels: Sequence[str], colors: Sequence[str]) -> list[Line2D]:
    """Return the legend's entries of things that differ in colour; there may be more colours."""
    return [Line2D([], [], color=c, label=t) for t, c in zip(labels, colors, strict=False)]


def splits(names: Sequence[str], color: str, dotted: Any) -> list[Line2D]:
    """Return the legend's entries of training and test, as far as quantities are of them."""
    looks: dict[str, Any] = {"train": "solid", "test": dotted}
    return [
        Line2D([], [], color=color, label=split, linestyle=dashes)
        for split, dashes in looks.items()
        if any(name.startswith(split) for name in names)
    ]


def finish(
    panels: Sequence[Axes],
    families: Sequence[Axes],
    request: Request,
    handles: list[Line2D],
    notes: Sequence[str],
    *,
    keys: int = 0,
    legend_title: str = "",
) -> None:
    """Write the legend, if there are handles, and the notes below a panel, and settle the page.

    Args:
        panels: All of a figure, with everything else on it.
        families: Axes with different vertical scales; a panel may have two.
        request: What was asked for.
        handles: Labelled lines.
        notes: Sentences on what is not drawn.
        keys: How many of the last handles explain looks, not things.
        legend_title: What the numbers in the labels are; said of test errors anyway.
    """
    if handles:
        has_errors = any(" %)" in str(handle.get_label()) for handle in handles)
        title = legend_title or (page.ERRORS if has_errors else "")
        place = request.look.legend or "below"
        words.legend(panels[0], handles, place, keys=keys, title=title)
    words.note(panels[len(panels) // 2] if len(panels) > 2 else panels[0], notes)
    words.finish(page.root(panels[0]), panels, request, families)
