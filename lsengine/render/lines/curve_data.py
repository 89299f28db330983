"""What is drawn along one direction: quantities of surfaces, sorted, with common axes.

Shape suffixes: A alphas, R repeats (1 without repeats).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from matplotlib.axes import Axes

from lsengine.render.lines import panel
from lsengine.render.page import page, scales
from lsengine.render.request import Request
from lsengine.surface import MISSING, Surface, cells
from lsengine.surface.cells import Floats, Mask
from lsengine.surface.quantities import Quantity, describe

DECADES = 12.0  # a log axis of more says nothing of any


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One quantity of one surface along alpha, in the unit drawn."""

    quantity: Quantity
    alpha: Floats  # (A,), increasing
    values: Floats  # NaN wherever there is no finite result; (R, A)
    missing: Mask  # cells not computed yet, over which the line runs on; (R, A)

    @property
    def repeats(self) -> int:
        """Number of independent directions."""
        return int(self.values.shape[0])

    @property
    def finite(self) -> Floats:
        """All finite values; (N,)."""
        return self.values[np.isfinite(self.values)]


class Curves:
    """Some quantities of all surfaces of a request, and how they are told apart."""

    def __init__(self, request: Request, names: Sequence[str]) -> None:
        self.request = request
        self.of = {  # by number of the surface and name of the quantity
            (index, name): curve_of(surface, name)
            for index, surface in enumerate(request.surfaces)
            for name in names
            if name in surface.quantities
        }

    @property
    def several(self) -> bool:
        """Whether there is more than one surface."""
        return len(self.request.surfaces) > 1

    @property
    def names(self) -> list[str]:
        """Of the quantities."""
        return list(dict.fromkeys(name for _, name in self.of))

    @property
    def repeats(self) -> int:
        """The largest number of independent directions of any surface."""
        return max(curve.repeats for curve in self.of.values())

    @cached_property
    def finite(self) -> Floats:
        """All finite values; (N,)."""
        return np.concatenate([curve.finite for curve in self.of.values()])

    def color(self, index: int, name: str) -> str:
        """Return a line's colour: by surface; of one by family, or by split where bands overlap."""
        style = self.request.style
        if self.several:
            return page.colors(style, len(self.request.surfaces))[index]
        if self.repeats > 1:
            return style.colors[int(is_test(name))]
        return style.colors[int(describe(name).is_percent)]

    def fit_alpha(self, axes: Axes) -> None:
        """Let the horizontal axis end where the longest curves do."""
        ends = np.concatenate([curve.alpha for curve in self.of.values()])
        if np.ptp(ends) > 0:
            axes.set_xlim(ends.min(), ends.max())

    def fit_scale(self, axes: Axes, wanted: str) -> None:
        """Take the vertical scale, a member of `SCALES` or what suits, from all finite values.

        A log axis has room for all of them; on a linear one, and beyond `DECADES`, cliffs are
        clipped as in planes.
        """
        values, limits = self.finite, self.request.limits
        quantity = next(iter(self.of.values())).quantity
        scale = scales.choose(values, quantity, wanted, self.request.levels, limits)
        low, high = float(values.min()), float(values.max())
        if limits:
            low, high = limits
        elif scale.kind != "log" or high / max(low, scale.low) > 10.0**DECADES:
            low = scale.low if scale.extend in ("min", "both") else low
            high = scale.high if scale.extend in ("max", "both") else high
        if scale.kind == "log":
            low = max(low, float(values[values > 0].min(initial=high)), 1e-300)
            decades = 0.0 if limits else 0.04 * np.log10(max(high / low, 1.1))
            page.log_axis(axes, low * 10**-decades, high * 10**decades)
            return
        if scale.kind == "symlog":
            axes.set_yscale("symlog", linthresh=scale.threshold)
        room = 0.0 if limits else panel.room(low, high)
        axes.set_ylim(low - room, high + room)


def curve_of(surface: Surface, name: str) -> Curve:
    """Sort the cells of one quantity of a surface along alpha."""
    quantity = describe(name)
    line = cells.line(surface, quantity)
    missing = line.status == MISSING
    return Curve(quantity=quantity, alpha=line.alpha, values=line.values, missing=missing)


def is_test(name: str) -> bool:
    """Whether a quantity is of the test split."""
    return name.startswith("test")
