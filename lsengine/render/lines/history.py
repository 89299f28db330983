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
from numpy.typing import NDArray

from lsengine.errors import NothingToDraw, UsageError
from lsengine.render import page
from lsengine.render.page import scales
from lsengine.render.request import RecordsRequest
from lsengine.surface.quantities import Quantity, describe
from lsengine.surface.records import History
from lsengine.wording import did_you_mean

Floats = NDArray[np.float64]
DROP = 0.7  # a learning rate that shrinks to less of itself at once has dropped
DOTTED = (0, (1.2, 1.3))
SHOWN = 12  # names in a message: all curves, and a few parameters


@dataclass(frozen=True, slots=True)
class Panel:
    """Curves that share an axis.

    Attributes:
        columns: Of the history; those of one family.
        label: Of the vertical axis.
        factor: From the stored value to the drawn one.
    """

    columns: tuple[str, ...]
    label: str
    factor: float = 1.0


PANELS = (
    Panel(("train_loss", "test_loss"), "loss"),
    Panel(("train_error", "test_error"), "error (%)", 100.0),
    Panel(("weight_norm",), "norm of all parameters"),
)


def draw(request: RecordsRequest) -> Figure:
    """Draw histories over one another: a panel for losses, one for errors, one for norms.

    Raises:
        NothingToDraw: If a history has no finite value to draw.
    """
    histories = [_with_layers(r) for r in request.records if isinstance(r, History)]
    panels = _chosen(histories, request.quantity)
    style = request.style
    figure, axes = page.sheet(len(panels), style, 0.68 if len(panels) == 1 else 0.86)
    colors = page.colors(style, len(histories))
    for side, panel in zip(axes, panels, strict=True):
        for history, color in zip(histories, colors, strict=True):
            for name in panel.columns:
                if name in history.columns:
                    _line(side, history, name, panel.factor, color)
        _frame(side, panel, histories, request)
    drops = _drops(axes, histories, colors, request)
    _words(figure, axes, (histories, panels, colors), request, drops)
    page.settle(figure)
    return figure


def _with_layers(history: History) -> History:
    """Return a history whose curves are also the norms of its parameters, by their names."""
    layers = dict(zip(history.parameters, history.layer_norms.T, strict=True))
    return replace(history, columns={**history.columns, **layers})


def _chosen(histories: list[History], quantity: str | None) -> list[Panel]:
    """Return the panels: of one column if it was asked for, else of all that is there."""
    for history in histories:
        held = [n for n in history.columns if n != "epoch"]
        if quantity is not None and quantity not in held:
            more = f" and {len(held) - SHOWN} more" if len(held) > SHOWN else ""
            raise UsageError(
                f"{history.source}: has no curve {quantity!r}; it has: "
                f"{', '.join(held[:SHOWN])}{more}{did_you_mean(quantity, held)}"
            )
        wanted = (
            [n for n in held if n not in history.parameters] if quantity is None else [quantity]
        )
        if not any(np.isfinite(history.columns[n]).any() for n in wanted):
            raise NothingToDraw(f"{history.source}: has no finite value to draw yet")
    if quantity is not None:
        if any(quantity in h.parameters for h in histories):
            return [Panel((quantity,), f"norm of {page.printable(quantity)}")]
        factor = next((p.factor for p in PANELS if quantity in p.columns), 1.0)
        return [Panel((quantity,), _label(quantity, factor), factor)]
    return [p for p in PANELS if any(n in h.columns for h in histories for n in p.columns)]


def _label(name: str, factor: float) -> str:
    known = {"weight_norm": PANELS[2].label}
    return known.get(name, describe(name).label) + (" (%)" if factor != 1.0 else "")


def _line(axes: Axes, history: History, name: str, factor: float, color: str) -> None:
    epoch_E = history.columns["epoch"]
    values_E = np.asarray(history.columns[name], np.float64)
    values_E = np.where(np.isfinite(values_E), values_E, np.nan) * factor
    few = len(epoch_E) < 4
    look: dict[str, Any] = {"marker": "o", "markersize": 3.0} if few else {}
    look |= {"color": color, "linestyle": _dashes(name), "linewidth": 1.4}
    axes.plot(epoch_E, values_E, **look)


def _dashes(name: str) -> Any:
    """Return the line of a split: training solid, test dotted."""
    return DOTTED if name.startswith("test") else "solid"


def _frame(axes: Axes, panel: Panel, histories: list[History], request: RecordsRequest) -> None:
    """Set scale, limits and labels."""
    held = [h.columns[n] for h in histories for n in panel.columns if n in h.columns]
    values = np.concatenate([np.asarray(v, np.float64) for v in held])
    values = values[np.isfinite(values)] * panel.factor
    last = max(int(h.columns["epoch"][-1]) for h in histories if h.columns["epoch"].size)
    axes.set(xlabel="epoch", ylabel=panel.label, xlim=(0, max(last, 1)))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, steps=[1, 2, 5, 10]))
    axes.set_axisbelow(True)
    axes.grid(True, linewidth=0.4, color=request.style.faint, alpha=0.5)
    if not values.size:
        return
    is_loss = panel.label.endswith("loss") or panel.columns == ("learning_rate",)
    wanted = request.scale if is_loss or request.quantity else "linear"
    scale = scales.choose(values, Quantity(panel.label, panel.label), wanted, None, None)
    low, high = float(values.min()), float(values.max())
    if scale.kind == "log":
        low = float(values[values > 0].min())
        room = (high / low) ** 0.04 * 1.02
        page.log_axis(axes, low / room, high * room)
        return
    room = 0.04 * (high - low) or 0.05 * abs(high) or 0.5
    floor = low - room if low < 0 or panel.label.startswith("norm") else 0.0
    axes.set_ylim(floor, high + room)
    axes.locator_params(axis="y", nbins=6)


def _dropped(history: History) -> list[int]:
    """Return the epochs after which the learning rate drops, having been constant before."""
    rate_E = history.columns.get("learning_rate")
    if rate_E is None or len(rate_E) < 3:
        return []
    with np.errstate(invalid="ignore"):  # the rate of epoch 0 is NaN, which is never equal
        fell_E = (rate_E[2:] < DROP * rate_E[1:-1]) & (rate_E[1:-1] == rate_E[:-2])
    return [int(e) for e in history.columns["epoch"][1:-1][fell_E]]


def _drops(
    axes: list[Axes], histories: list[History], colors: list[str], request: RecordsRequest
) -> list[Line2D]:
    """Mark where learning rates drop, in colours if they differ; return the legend's entry."""
    each, style = [_dropped(h) for h in histories], request.style
    if not any(each):
        return []
    common = all(e == each[0] for e in each)
    for panel in axes:
        for epochs, color in zip(each[:1] if common else each, colors, strict=False):
            look: dict[str, Any] = {"color": style.faint if common else color}
            for epoch in epochs:
                panel.axvline(epoch, linewidth=1.0, alpha=1.0 if common else 0.45, zorder=1, **look)
    color = style.faint if common else style.ink
    mark: dict[str, Any] = {"marker": "|", "markersize": 11.0, "linestyle": "none"}
    return [Line2D([], [], color=color, label="learning rate drops", **mark)]


def _words(
    figure: Figure,
    axes: list[Axes],
    shown: tuple[list[History], list[Panel], list[str]],
    request: RecordsRequest,
    drops: list[Line2D],
) -> None:
    """Write the title or legend, and the notes below."""
    histories, panels, colors = shown
    things, keys = [], []
    if len(histories) == 1:
        title = page.printable(histories[0].name) + _final_error(histories[0], ", test error {}")
        if len(axes) == 1:
            axes[0].set_title(title, parse_math=False)
        else:
            figure.suptitle(title, parse_math=False)
    else:
        for history, color in zip(histories, colors, strict=True):
            label = page.printable(history.name) + _final_error(history, " ({})")
            things.append(Line2D([], [], color=color, label=label))
    ink = colors[0] if len(histories) == 1 else request.style.ink
    for split in ("train", "test"):
        if any(n.startswith(split) for panel in panels for n in panel.columns):
            keys.append(Line2D([], [], color=ink, label=split, linestyle=_dashes(split)))
    keys += drops
    size = float(axes[0].xaxis.label.get_fontsize())
    if things or keys:
        title = page.ERRORS if any(" %)" in str(h.get_label()) for h in things) else ""
        page.legend(figure, [*things, *keys], size * 0.88, keys=len(keys), title=title)
    page.note(axes[len(axes) // 2], _notes(histories), size * 2.9 + 4.0)


def _final_error(history: History, form: str) -> str:
    errors = history.columns.get("test_error", np.array([]))
    if not len(errors) or not np.isfinite(errors[-1]):
        return ""
    return form.format(f"{100 * errors[-1]:.2f} %")


def _notes(histories: list[History]) -> list[str]:
    """Return which histories are unfinished, and which have values that are not drawn."""
    lines = []
    for history in histories:
        head = f"{page.printable(history.name)}: " if len(histories) > 1 else ""
        planned = history.attributes.get("epochs")
        last = int(history.columns["epoch"][-1]) if len(history.columns["epoch"]) else 0
        if planned is not None and last < int(planned):
            lines.append(f"{head}{last:,} of {int(planned):,} epochs so far")
        losses = [v for n, v in history.columns.items() if n.endswith("_loss")]
        gaps = int((~np.isfinite(np.array(losses))).any(axis=0).sum()) if losses else 0
        if gaps:
            lines.append(f"{head}{gaps:,} epochs without a finite loss (gaps)")
    return lines
