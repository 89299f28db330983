"""Histograms of the weights of checkpoints, over one another on common bins.

Shape suffixes: K checkpoints, N bins.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from lsengine.errors import UsageError
from lsengine.render.lines import panel
from lsengine.render.page import page, words
from lsengine.render.request import Request
from lsengine.surface.cells import Floats
from lsengine.surface.records import Bins, WeightHistograms
from lsengine.wording import did_you_mean, listed

PEAKED = 50.0  # with a highest bin so many times the median one, counts are drawn as logs
ALIKE = 0.005  # networks whose sizes differ by less are compared by counts, others by shares
NORMS = {
    "weights": "norm: of the weights, without biases and normalisation",
    "others": "norm: of biases and normalisation parameters",
}
WORDS = {"weights": "weight", "others": "bias or normalisation parameter"}


def draw(request: Request) -> Figure:
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
    drawn = [k for k in range(len(weights.checkpoints)) if counts_KN[k].sum() > 0]
    if not drawn:
        raise UsageError(f"{weights.source}: {what} has no finite value in any checkpoint")
    figure, (side,) = page.sheet(1, style, 0.62)
    heights_KN, label = _heights(counts_KN, drawn)
    is_log = _scale(side, heights_KN[drawn], request.scale)
    colors = page.colors(style, len(weights.checkpoints))
    for k in drawn:
        bottom = side.get_ylim()[0]
        outline = np.maximum(heights_KN[k], 0.5 * bottom) if is_log else heights_KN[k]
        if len(drawn) == 1:
            side.stairs(outline, bins.edges, fill=True, color=colors[k], alpha=0.18, lw=0)
        side.stairs(outline, bins.edges, color=colors[k], linewidth=1.3, baseline=None)
    filled = np.flatnonzero(counts_KN.sum(axis=0))
    first, last = max(filled[0] - 1, 0), min(filled[-1] + 2, len(bins.edges) - 1)
    side.set(xlabel=what, ylabel=label, xlim=bins.edges[[first, last]])  # a bin to spare
    side.locator_params(axis="x", nbins=7)
    words.limit([side], request)
    panel.grid(side, style)
    names = [page.printable(name) for name in weights.checkpoints]
    only = bins.parameters.index(request.quantity) if request.quantity in bins.parameters else None
    norms_K = bins.total_norms if only is None else bins.norms[:, only]
    labels = [f"{names[k]} (norm {norms_K[k]:.4g})" for k in drawn]
    handles = panel.entries(labels, [colors[k] for k in drawn])
    if len(drawn) == 1:
        panel.title([side], names[drawn[0]], [f"norm {norms_K[drawn[0]]:.4g}"], request)
        handles = []
    lost_K = (bins.not_finite if only is None else bins.not_finite[:, [only]]).sum(axis=1)
    title = NORMS.get(request.quantity or max(weights.groups, default=""), "")
    notes = _notes(names, lost_K, drawn)
    panel.finish([side], [side], request, handles, notes, legend_title=title)
    return figure


def _notes(names: list[str], lost_K: NDArray[np.int64], drawn: list[int]) -> list[str]:
    """Return which checkpoints are not drawn, or not all of them."""
    lines = []
    for k, name in enumerate(names):
        if lost_K[k]:
            lines.append(f"{name}: {lost_K[k]:,} NaN or infinite, not drawn")
        elif k not in drawn:
            lines.append(f"{name}: has no such parameter")
    return lines


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
    raise UsageError(
        f"{weights.source}: has no parameters {group!r}; it has: {listed(held, 8)}"
        f"{did_you_mean(group, held)}"
    )


def _heights(counts_KN: NDArray[np.int64], drawn: list[int]) -> tuple[Floats, str]:
    """Return counts, or shares in percent where networks have different sizes."""
    totals_K = counts_KN.sum(axis=1).astype(np.float64)
    sizes = totals_K[drawn]
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
