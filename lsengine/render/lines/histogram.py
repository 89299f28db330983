"""Histograms of the weights of checkpoints, over one another on common bins.

Shape suffixes: K checkpoints, N bins.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from lsengine.errors import UsageError
from lsengine.render import page
from lsengine.render.request import RecordsRequest
from lsengine.surface.records import Bins, WeightHistograms
from lsengine.wording import did_you_mean

Floats = NDArray[np.float64]
PEAKED = 50.0  # with a highest bin so many times the median one, counts are drawn as logs
ALIKE = 0.005  # networks whose sizes differ by less are compared by counts, others by shares
NORMS = {
    "weights": "norm: of the weights, without biases and normalisation",
    "others": "norm: of biases and normalisation parameters",
}
WORDS = {"weights": "weight", "others": "bias or normalisation parameter"}


def draw(request: RecordsRequest) -> Figure:
    """Draw one outline for each checkpoint of each file.

    Raises:
        UsageError: If the parameters asked for are not there, or files have other bins.
    """
    files = [r for r in request.records if isinstance(r, WeightHistograms)]
    if len(files) > 1:
        raise UsageError(
            "render: histograms of two files have different bins; give lsengine histogram all "
            "checkpoints at once"
        )
    weights, style = files[0], request.style
    what, bins, counts_KN = _chosen(weights, request.quantity)
    there = [k for k in range(len(weights.checkpoints)) if counts_KN[k].sum() > 0]
    if not there:
        raise UsageError(f"{weights.source}: {what} has no finite value in any checkpoint")
    figure, axes = page.sheet(1, style, 0.62)
    side = axes[0]
    heights_KN, label = _heights(counts_KN, there)
    is_log = _scale(side, heights_KN[there], request.scale)
    colors = page.colors(style, len(weights.checkpoints))
    for k in there:
        bottom = side.get_ylim()[0]
        outline = np.maximum(heights_KN[k], 0.5 * bottom) if is_log else heights_KN[k]
        if len(there) == 1:
            side.stairs(outline, bins.edges, fill=True, color=colors[k], alpha=0.18, lw=0)
        side.stairs(outline, bins.edges, color=colors[k], linewidth=1.3, baseline=None)
    side.set(xlabel=what, ylabel=label, xlim=_ends(bins.edges, counts_KN))
    side.locator_params(axis="x", nbins=7)
    side.set_axisbelow(True)
    side.grid(True, linewidth=0.4, color=style.faint, alpha=0.5)
    _words(figure, side, (weights, bins, there, colors), request.quantity)
    page.settle(figure)
    return figure


def _chosen(weights: WeightHistograms, quantity: str | None) -> tuple[str, Bins, NDArray[np.int64]]:
    """Return a label, the bins, and counts (K, N): of a group or of one parameter."""
    group = quantity or max(weights.groups, default="weights")  # the others only if alone
    if group in weights.groups:
        bins = weights.groups[group]
        return WORDS.get(group, group), bins, bins.counts.sum(axis=1)
    for bins in weights.groups.values():
        if group in bins.parameters:
            one = bins.parameters.index(group)
            return page.printable(group), bins, bins.counts[:, one]
    held = [*weights.groups, *(n for b in weights.groups.values() for n in b.parameters)]
    shown = ", ".join(held[:8]) + (f" and {len(held) - 8} more" if len(held) > 8 else "")
    raise UsageError(
        f"{weights.source}: has no parameters {group!r}; it has: {shown}{did_you_mean(group, held)}"
    )


def _heights(counts_KN: NDArray[np.int64], there: list[int]) -> tuple[Floats, str]:
    """Return counts, or shares in percent where networks have different sizes."""
    totals_K = counts_KN.sum(axis=1).astype(np.float64)
    sizes = totals_K[there]
    if sizes.max() - sizes.min() <= ALIKE * sizes.max():
        return counts_KN.astype(np.float64), "count per bin"
    return 100.0 * counts_KN / np.maximum(totals_K, 1.0)[:, None], "share per bin (%)"


def _scale(axes: Axes, heights_KN: Floats, wanted: str) -> bool:
    """Set the vertical scale and limits; return whether it is logarithmic."""
    filled = heights_KN[heights_KN > 0]
    high, low = float(filled.max()), float(filled.min())
    peaked = high > PEAKED * float(np.median(filled))
    if wanted == "log" or (wanted == "auto" and peaked):
        page.log_axis(axes, 0.7 * low, 1.2 * high * (high / low) ** 0.06)
        return True
    axes.set_ylim(0.0, 1.06 * high)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.10g}"))
    return False


def _ends(edges: Floats, counts_KN: NDArray[np.int64]) -> tuple[float, float]:
    """Return the part of the axis where there is anything, with a bin to spare."""
    filled = np.flatnonzero(counts_KN.sum(axis=0))
    first, last = max(int(filled[0]) - 1, 0), min(int(filled[-1]) + 2, len(edges) - 1)
    return float(edges[first]), float(edges[last])


def _words(
    figure: Figure,
    axes: Axes,
    shown: tuple[WeightHistograms, Bins, list[int], list[str]],
    quantity: str | None,
) -> None:
    """Write names and norms, and what is not drawn."""
    weights, bins, there, colors = shown
    one = bins.parameters.index(quantity) if quantity in bins.parameters else None
    norms_K = bins.total_norms if one is None else bins.norms[:, one]
    part: Any = slice(None) if one is None else slice(one, one + 1)
    size = float(axes.xaxis.label.get_fontsize())
    names = [page.printable(weights.checkpoints[k]) for k in there]
    if len(there) == 1:
        title = f"{names[0]}, norm {norms_K[there[0]]:.4g}"
        axes.set_title(title, parse_math=False)
    else:
        page.legend(
            figure,
            [
                Line2D([], [], color=colors[k], label=f"{name} (norm {norms_K[k]:.4g})")
                for k, name in zip(there, names, strict=True)
            ],
            size * 0.88,
            title=NORMS.get(quantity or max(weights.groups, default=""), ""),
        )
    lines = []
    for k, name in enumerate(weights.checkpoints):
        lost = int(bins.not_finite[k, part].sum())
        if lost:
            lines.append(f"{page.printable(name)}: {lost:,} NaN or infinite, not drawn")
        elif k not in there:
            lines.append(f"{page.printable(name)}: has no such parameter")
    page.note(axes, lines, size * 2.9 + 4.0)
