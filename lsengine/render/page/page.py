"""The page: panels, marks and one colour bar, at a fixed width.

The width is the style's, since a column of a journal has one; the height follows from what
is on the page.  All sizes of words are shares of the size of an axis' label.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, cast

import numpy as np
from matplotlib import colormaps, rcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Normalize, to_hex
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.patheffects import AbstractPathEffect, withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, ScalarFormatter

from lsengine.render.page.scales import Scale, log_text, power_text
from lsengine.render.style import Style
from lsengine.surface import Surface
from lsengine.surface.cells import Floats, Tally
from lsengine.surface.quantities import Quantity

LONGEST_NUMBER = 7  # characters at a colour bar; longer ones have what is common taken out
LONGEST_NAME = 44  # characters; a longer name keeps its beginning and its end
POINT = 1.0 / 72.0  # inch
DPI = 100  # of the page that things are laid out on; files have the style's
MARGIN = 6.0  # points around everything
Place = tuple[float, float]
ERRORS = "in parentheses: test error"  # over a legend


def letter(axes: Axes) -> float:
    """Return the size of the labels of axes in points."""
    return float(axes.xaxis.label.get_fontsize())


def root(axes: Axes) -> Figure:
    """Return the figure that axes belong to."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    return figure


def halo(color: Any, width: float = 2.0) -> list[AbstractPathEffect]:
    """Return the effect that keeps words and lines apart from what they lie on."""
    return [withStroke(linewidth=width, foreground=color)]


def name_point(axes: Axes, name: str, at: Place, beside: Place, style: Style, **look: Any) -> None:
    """Write the name of a point so many points beside it, readable on any ground."""
    look |= {"color": style.ink, "path_effects": halo(style.ground)}
    look |= {"xytext": beside, "textcoords": "offset points", "fontsize": 0.82 * letter(axes)}
    axes.annotate(name, at, **look)


def mark_looks(style: Style, marker: str, size: float = 5.0) -> list[dict[str, Any]]:
    """Return the two looks of an open mark: wide in the ground's colour, and thin over it."""
    look = {"marker": marker, "markersize": size, "markerfacecolor": "none", "linestyle": "none"}
    return [
        {**look, "markeredgecolor": color, "markeredgewidth": width}
        for width, color in ((2.4, style.ground), (1.1, style.ink))
    ]


def ramp(scale: Scale, style: Style) -> ScalarMappable:
    """Return the colours of a scale, without steps; nothing where there is no value."""
    colors = colormaps[style.colormap].with_extremes(bad=(0, 0, 0, 0))
    cast(Any, colors).colorbar_extend = scale.extend  # typed as a flag, is a word
    return ScalarMappable(Normalize(*scale.span), colors)


def columns_for(panels: int) -> int:
    """Return how many panels go side by side: up to four, without a lonely last one."""
    return {1: 1, 2: 2, 3: 3, 4: 2}.get(panels, 4 if panels > 6 else 3)


def sheet(panels: int, style: Style, ratio: float, **axes: Any) -> tuple[Figure, list[Axes]]:
    """Return a figure with ``panels`` axes, of which each is ``ratio`` as high as wide.

    The height of the page is made to fit later.  ``Figure.add_subplot`` gets ``axes``.
    """
    columns = columns_for(panels)
    rows = -(-panels // columns)
    width = style.width if panels == 1 else style.wide
    size = (width, rows * (ratio * width / columns + 0.9))
    figure = Figure(figsize=size, dpi=style.dpi, layout="compressed")
    FigureCanvasAgg(figure)  # ``savefig`` has the dots per inch of this moment
    figure.set_dpi(DPI)
    gap = MARGIN * POINT
    cast(Any, figure.get_layout_engine()).set(w_pad=gap, h_pad=gap, wspace=0.03, hspace=0.03)
    grid = figure.add_gridspec(rows, columns)
    places = [grid[i // columns, i % columns] for i in range(panels)]
    return figure, [figure.add_subplot(place, **axes) for place in places]


def marked_points(surface: Surface) -> dict[str, Place]:
    """Return the centre and the other minima that directions lead to, by what they are called."""
    minima = surface.marked_minima
    one = len(minima) == 1
    names = ["other minimum"] if one else [f"minimum {i + 2}" for i in range(len(minima))]
    return dict(zip(["centre", *names], [(0.0, 0.0), *minima], strict=True))


def about_cells(counts: Tally, *, hatched: str = "", bad: str = "") -> list[str]:
    """Return the sentences that say what is not drawn, none if all is.

    ``hatched`` says how missing cells show, ``bad`` how failed and non-finite ones do.
    """
    missing = f"{counts.missing:,} of {counts.cells:,} cells missing" if counts.missing else ""
    undrawn = f"not drawn: {counts.bad_text()}" if counts.bad else ""
    told = [(line, shown) for line, shown in ((missing, hatched), (undrawn, bad)) if line]
    return [f"{line} ({shown})" if shown else line for line, shown in told]


def about_clipping(values: Floats, scale: Scale) -> list[str]:
    """Return how many of a surface's values lie beyond the ends of the scale."""
    parts = [
        f"{count:,} {'cell' if count == 1 else 'cells'} {word} {scale.text(end)}"
        for count, word, end in _beyond(values, scale.low, scale.high)
    ]
    return [", ".join(parts) + ", beyond the scale"] if parts else []


def beyond_axis(axes: Axes, values: Floats) -> list[str]:
    """Return how many finite values of curves, (N,), lie beyond the limits of the vertical axis."""
    parts = [
        f"{count:,} of {values.size:,} values {word} {power_text(float(f'{end:.2g}'))}"
        for count, word, end in _beyond(values, *axes.get_ylim())
    ]
    return [", ".join(parts) + ", beyond the axis"] if parts else []


def _beyond(values: Floats, low: float, high: float) -> list[tuple[int, str, float]]:
    """Return how many values lie above and below two ends, if any do."""
    above, below = int((values > high).sum()), int((values < low).sum())
    return [side for side in ((above, "above", high), (below, "below", low)) if side[0]]


def bar(
    figure: Figure,
    mappable: ScalarMappable,
    axes: list[Axes],
    scale: Scale,
    quantity: Quantity,
    *,
    shrink: float = 1.0,
    pad: float = 0.02,
    most: int = 11,
) -> Colorbar:
    """Add the one colour bar of a figure, with ``most`` numbers in values at most."""
    shown = scale.labelled(most)
    ticks = scale.forward(shown)
    colorbar = figure.colorbar(
        mappable, ax=axes, ticks=ticks, fraction=0.05, pad=pad, aspect=24 * shrink, shrink=shrink
    )
    texts = [scale.tick_text(float(tick), shown) for tick in shown]
    if scale.kind == "linear" and max(map(len, texts)) > LONGEST_NUMBER:
        colorbar.ax.yaxis.set_major_formatter(ScalarFormatter(useOffset=True, useMathText=True))
    else:
        colorbar.ax.set_yticklabels(texts)
    colorbar.ax.minorticks_off()
    colorbar.set_label(quantity.label)
    colorbar.outline.set_linewidth(0.5)
    return colorbar


def log_axis(axes: Axes, low: float, high: float) -> None:
    """Make the vertical axis logarithmic, with two numbers or more, all in one manner."""
    decades = np.log10(high / low)
    subs = (1.0,) if decades > 2.0 else (1.0, 3.0) if decades > 1.0 else (1.0, 2.0, 3.0, 5.0, 7.0)
    axes.set_yscale("log", nonpositive="mask")
    axes.set_ylim(low, high)
    if decades < 0.3:  # powers of ten say nothing here
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.yaxis.set_major_formatter(ScalarFormatter())
    else:
        locator = LogLocator(subs=subs, numticks=8)
        seen = [tick for tick in locator.tick_values(low, high) if low <= tick <= high]
        first, last = min(seen, default=low), max(seen, default=high)
        axes.yaxis.set_major_locator(locator)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: log_text(v, first, last)))
    axes.yaxis.set_minor_locator(LogLocator(subs=[float(n) for n in range(1, 10)], numticks=10))
    axes.yaxis.set_minor_formatter(NullFormatter())


def colors(style: Style, count: int) -> list[str]:
    """Return ``count`` different colours for lines: more than are named form a ramp."""
    if count <= len(style.colors):
        return list(style.colors[:count])
    ramp = colormaps[style.colormap](np.linspace(*style.line_range, count))
    return [to_hex(color) for color in ramp]


def outer_labels(axes: Sequence[Axes], columns: int) -> None:
    """Keep axis labels at the left and bottom panels only, where ranges are equal."""
    same = all(a.get_xlim() == axes[0].get_xlim() for a in axes)
    same = same and all(a.get_ylim() == axes[0].get_ylim() for a in axes)
    for index, panel in enumerate(axes):
        if same and index % columns:
            panel.set_ylabel("")
            panel.tick_params(labelleft=False)


def printable(name: str) -> str:
    """Return a name on one line, of sensible length, in characters the font has.

    Dollar signs are those of a name, not of mathematics.
    """
    line = " ".join(name.split())
    if len(line) > LONGEST_NAME:
        line = f"{line[: LONGEST_NAME - 14]}\N{HORIZONTAL ELLIPSIS}{line[-13:]}"
    has = _glyphs(tuple(rcParams["font.family"]))
    shown = "".join(c if c == " " or has(ord(c)) else "?" for c in line)
    return shown.replace("$", r"\$")


@cache
def _glyphs(family: tuple[str, ...]) -> Any:
    return get_font(findfont(FontProperties(family=list(family)))).get_char_index
