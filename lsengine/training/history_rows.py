"""The rows of a training history, as they grow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsengine.surface.records import History


@dataclass(slots=True)
class Rows:
    """A history while it grows.

    Attributes:
        columns: Names of the curves.
        parameters: Names of the trainable parameters.
        rows: For each epoch so far the curves' values, then the norms of the parameters.
    """

    columns: tuple[str, ...]
    parameters: tuple[str, ...]
    rows: list[list[float]] = field(default_factory=list)

    @property
    def epoch(self) -> int:
        """The epochs finished; -1 before the first row."""
        return len(self.rows) - 1

    @property
    def last(self) -> dict[str, float]:
        """The last epoch's values by name."""
        return dict(zip(self.columns, self.rows[-1], strict=False))

    def history(self, attributes: Mapping[str, Any]) -> History:
        """Return what there is so far."""
        width = len(self.columns) + len(self.parameters)
        table = np.array(self.rows, np.float64).reshape(-1, width)
        curves: dict[str, NDArray[Any]] = {"epoch": np.arange(len(table))}
        curves |= {name: table[:, i] for i, name in enumerate(self.columns)}
        return History(
            columns=curves,
            parameters=self.parameters,
            layer_norms=table[:, len(self.columns) :],
            attributes=attributes,
        )
