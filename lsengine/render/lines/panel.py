"""What pictures with lines have in common: sheet, grid, scale, title, legend and notes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lsengine.render.page import page
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


def title(figure: Figure, axes: list[Axes], text: str) -> None:
    """Put a title over the only panel, or over all of them."""
    (axes[0].set_title if len(axes) == 1 else figure.suptitle)(text, parse_math=False)


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
    figure: Figure,
    axes: Axes,
    handles: list[Line2D],
    notes: Sequence[str],
    *,
    keys: int = 0,
    legend_title: str = "",
) -> None:
    """Write the legend, if there are handles, and the notes below axes, and settle the page.

    Args:
        figure: With everything else on it.
        axes: Those the notes go below.
        handles: Labelled lines.
        notes: Sentences on what is not drawn.
        keys: How many of the last handles explain looks, not things.
        legend_title: What the numbers in the labels are; said of test errors anyway.
    """
    if handles:
        has_errors = any(" %)" in str(handle.get_label()) for handle in handles)
        words = legend_title or (page.ERRORS if has_errors else "")
        page.legend(figure, handles, page.letter(axes) * 0.88, keys=keys, title=words)
    page.note(axes, notes)
    page.settle(figure)
