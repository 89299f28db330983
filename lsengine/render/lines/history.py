"""Histories of trainings: losses, errors and the norm of the parameters against the epoch.

Shape suffix: E epochs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lsengine.errors import NothingToDraw, UsageError
from lsengine.render.lines import panel
from lsengine.render.page import page, scales, words
from lsengine.render.request import Request
from lsengine.render.style import Style
from lsengine.surface.quantities import Quantity, describe
from lsengine.surface.records import History
from lsengine.wording import did_you_mean, listed

DROP = 0.7  # a learning rate that shrinks to less of itself at once has dropped
DOTTED = (0, (1.2, 1.3))
SHOWN = 12  # names in a message: all curves, and a few parameters


@dataclass(frozen=True, slots=True)
class Family:
    """Curves that share an axis."""

    columns: tuple[str, ...]  # of the history
    label: str  # of the vertical axis
    factor: float = 1.0  # from the stored value to the drawn one


FAMILIES = (
    Family(("train_loss", "test_loss"), "loss"),
    Family(("train_error", "test_error"), "error (%)", 100.0),
    Family(("weight_norm",), "norm of all parameters"),
)


def draw(request: Request) -> Figure:
    """Draw histories over one another: a panel for losses, one for errors, one for norms.

    Raises:
        NothingToDraw: If a history has no finite value to draw.
    """
    histories = []
    for history in (record for record in request.records if isinstance(record, History)):
        layers = dict(zip(history.parameters, history.layer_norms.T, strict=True))
        histories.append(replace(history, columns={**history.columns, **layers}))
    families = _chosen(histories, request.quantity)
    figure, axes = page.sheet(len(families), request.style, 0.68 if len(families) == 1 else 0.86)
    colors = page.colors(request.style, len(histories))
    for side, family in zip(axes, families, strict=True):
        for history, color in zip(histories, colors, strict=True):
            for name in family.columns:
                if name in history.columns:
                    _line(side, history, name, family.factor, color)
        _frame(side, family, histories, request)
    words.limit(axes, request)
    drops = _mark_drops(axes, histories, colors, request.style)
    if len(histories) == 1:
        error = _final_error(histories[0], "test error {}")
        name = words.named(histories[0], request)
        panel.title(axes, name, [error] if error else [], request)
    labels = [words.named(h, request) + _final_error(h, " ({})") for h in histories]
    things = panel.entries(labels, colors) if len(histories) > 1 else []
    columns = [name for family in families for name in family.columns]
    keys = panel.splits(columns, request.style.ink if things else colors[0], DOTTED) + drops
    panel.finish(axes, axes, request, [*things, *keys], _notes(histories), keys=len(keys))
    return figure


def _chosen(histories: list[History], quantity: str | None) -> list[Family]:
    """Return the families: of one column if it was asked for, else of all that is there."""
    for history in histories:
        held = [n for n in history.columns if n != "epoch"]
        if quantity is not None and quantity not in held:
            raise UsageError(
                f"{history.source}: has no curve {quantity!r}; it has: "
                f"{listed(held, SHOWN)}{did_you_mean(quantity, held)}"
            )
        usual = [n for n in held if n not in history.parameters]
        wanted = usual if quantity is None else [quantity]
        if not any(np.isfinite(history.columns[n]).any() for n in wanted):
            raise NothingToDraw(f"{history.source}: has no finite value to draw yet")
    if quantity is not None:
        if any(quantity in h.parameters for h in histories):
            return [Family((quantity,), f"norm of {page.printable(quantity)}")]
        factor = next((f.factor for f in FAMILIES if quantity in f.columns), 1.0)
        label = FAMILIES[2].label if quantity == "weight_norm" else describe(quantity).label
        return [Family((quantity,), label + (" (%)" if factor != 1.0 else ""), factor)]
    return [f for f in FAMILIES if any(n in h.columns for h in histories for n in f.columns)]


def _line(axes: Axes, history: History, name: str, factor: float, color: str) -> None:
    epoch_E = history.columns["epoch"]
    values_E = np.asarray(history.columns[name], np.float64)
    values_E = np.where(np.isfinite(values_E), values_E, np.nan) * factor
    dots: dict[str, Any] = {"marker": "o", "markersize": 3.0} if len(epoch_E) < 4 else {}
    dashes: Any = DOTTED if name.startswith("test") else "solid"
    axes.plot(epoch_E, values_E, color=color, linestyle=dashes, linewidth=1.4, **dots)


def _frame(axes: Axes, family: Family, histories: list[History], request: Request) -> None:
    """Set scale, limits and labels."""
    held = [h.columns[n] for h in histories for n in family.columns if n in h.columns]
    values = np.concatenate([np.asarray(v, np.float64) for v in held])
    values = values[np.isfinite(values)] * family.factor
    last = max(int(h.columns["epoch"][-1]) for h in histories if h.columns["epoch"].size)
    axes.set(xlabel="epoch", ylabel=family.label, xlim=(0, max(last, 1)))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, steps=[1, 2, 5, 10]))
    panel.grid(axes, request.style)
    if not values.size:
        return
    is_loss = family.label.endswith("loss") or family.columns == ("learning_rate",)
    wanted = request.scale if is_loss or request.quantity else "linear"
    scale = scales.choose(values, Quantity(family.label, family.label), wanted, None, None)
    low, high = float(values.min()), float(values.max())
    if scale.kind == "log":
        low = float(values[values > 0].min())
        factor = (high / low) ** 0.04 * 1.02
        page.log_axis(axes, low / factor, high * factor)
        return
    room = panel.room(low, high)
    floor = low - room if low < 0 or family.label.startswith("norm") else 0.0
    axes.set_ylim(floor, high + room)
    axes.locator_params(axis="y", nbins=6)


def _dropped(history: History) -> list[tuple[int, int]]:
    """Return the epochs after which the learning rate drops, having been constant before.

    Each is a pair: the first and the last one that it may be, by the epochs that were measured.
    Where few are measured, drops may follow each other with no constant rate seen between them.
    """
    rate_E = history.columns.get("learning_rate")
    if rate_E is None or len(rate_E) < 3:
        return []
    epoch_E = history.columns["epoch"].tolist()
    found: list[tuple[int, int]] = []
    is_step = False  # whether the rate was constant, or dropped, up to the row before
    for row in range(2, len(rate_E)):
        last, before = rate_E[row - 1], rate_E[row - 2]  # NaN, of epoch 0, is never equal
        is_step = bool(last == before) or (is_step and bool(last < DROP * before))
        if is_step and rate_E[row] < DROP * last:
            found.append((epoch_E[row - 1], epoch_E[row] - 1))
    return found


def _mark_drops(
    axes: list[Axes], histories: list[History], colors: list[str], style: Style
) -> list[Line2D]:
    """Mark where learning rates drop, in colours if they differ; return the legend's entry."""
    each = [_dropped(history) for history in histories]
    if not any(each):
        return []
    common = all(epochs == each[0] for epochs in each)
    for side in axes:
        for epochs, own_color in zip(each[:1] if common else each, colors, strict=False):
            color, opacity = (style.faint, 1.0) if common else (own_color, 0.45)
            for first, last in epochs:
                mark: dict[str, Any] = {"linewidth": 1.0, "zorder": 1, "color": color}
                if first == last:
                    side.axvline(first, alpha=opacity, **mark)
                else:
                    side.axvspan(first, last, alpha=0.3 * opacity, **mark)
    color = style.faint if common else style.ink
    line: dict[str, Any] = {"marker": "|", "markersize": 11.0, "linestyle": "none"}
    return [Line2D([], [], color=color, label="learning rate drops", **line)]


def _final_error(history: History, form: str) -> str:
    errors = history.columns.get("test_error", np.array([]))
    if not len(errors) or not np.isfinite(errors[-1]):
        return ""
    return form.format(f"{100 * errors[-1]:.2f} %")


def _notes(histories: list[History]) -> list[str]:
    """Return which histories are unfinished, and which have values that are not drawn."""
    lines = []
    for history in histories:
        head = panel.lead(history.name, histories)
        planned = history.attributes.get("epochs")
        last = int(history.columns["epoch"][-1]) if len(history.columns["epoch"]) else 0
        if planned is not None and last < int(planned):
            lines.append(f"{head}{last:,} of {int(planned):,} epochs so far")
        losses = [v for n, v in history.columns.items() if n.endswith("_loss")]
        gaps = int((~np.isfinite(np.array(losses))).any(axis=0).sum()) if losses else 0
        if gaps:
            lines.append(f"{head}{gaps:,} epochs without a finite loss (gaps)")
    return lines
