"""The surface as a value: axes, quantities, and which cells they exist for.

What readers of a file get (`lsengine.store.read`) and renderers and exporters draw.  Knows
no file, no torch, no MPI.

Shape suffixes: B betas, A alphas, R repeats; a curve is (A,) or (R, A), a plane (B, A).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

MISSING, DONE, FAILED = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Trajectory:
    """Checkpoints projected on the two directions.

    Attributes:
        columns: Every dataset of the file's ``trajectory`` group by name, each (T,) with
            ``alpha``, ``beta`` and ``epoch`` among them.
        attributes: The group's attributes, ``explained_variance_ratio`` among them.
    """

    columns: Mapping[str, NDArray[Any]]
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def done(self) -> NDArray[np.bool_]:
        """Mask (T,) of the checkpoints whose losses are results."""
        shape = self.columns["epoch"].shape
        done: NDArray[np.bool_] = np.equal(self.columns.get("status", np.zeros(shape)), DONE)
        return done

    def counts(self) -> dict[str, int] | None:
        """Return the number of checkpoints by state, None if they are no cells."""
        return _counts(self.columns["status"]) if "status" in self.columns else None

    @property
    def drops(self) -> NDArray[np.bool_]:
        """Mask (T,) of the last checkpoints before the learning rate drops."""
        rate_T = self.columns.get("learning_rate")
        if rate_T is None or len(rate_T) < 2:
            return np.zeros(self.columns["epoch"].shape, np.bool_)
        with np.errstate(invalid="ignore"):
            return np.append(rate_T[1:] < rate_T[:-1], False)


@dataclass(frozen=True, slots=True)
class Surface:
    """Metrics over a grid, as far as they have been computed.

    Attributes:
        name: The job's name.
        source: Where it was read from, for messages and captions.
        axes: Coordinates by axis name in the order of the arrays' axes: ``alpha``;
            ``beta, alpha``; or ``repeat, alpha``.
        quantities: Float arrays by name (``train_loss``, ``test_accuracy``, ...), all of the
            shape of the axes.  NaN may be a legitimate value: ask ``status``, not the array.
        status: uint8 of the same shape; 0 missing, 1 done, 2 failed.
        provenance: Per-cell facts that are no results: ``wall_s``, ``worker``, ``finished``
            (seconds since the epoch), ``failure`` (bytes).
        attributes: The file's root attributes.
        trajectory: Checkpoints in the plane, if the file has them.
    """

    name: str
    source: str
    axes: Mapping[str, NDArray[np.float64]]
    quantities: Mapping[str, NDArray[np.float64]]
    status: NDArray[np.uint8]
    provenance: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    trajectory: Trajectory | None = None

    @property
    def is_plane(self) -> bool:
        """Whether there are two directions."""
        return "beta" in self.axes

    @property
    def has_path(self) -> bool:
        """Whether there are checkpoints with a place in the plane."""
        columns = self.trajectory.columns if self.trajectory is not None else {}
        return {"alpha", "beta", "epoch"} <= columns.keys()

    @property
    def directions(self) -> Mapping[str, Mapping[str, Any]]:
        """What the job says of each direction, by axis; nothing in other programs' files."""
        try:
            found = json.loads(self.attributes.get("identity", "{}")).get("directions", {})
        except (TypeError, ValueError, AttributeError):
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def is_trained_curve(self) -> bool:
        """Whether alpha is the parameter of a curve between two minima."""
        return self.directions.get("alpha", {}).get("kind") == "curve"

    @property
    def other_minima(self) -> tuple[tuple[float, float], ...]:
        """Alpha and beta of the other checkpoints that whole directions lead to.

        A direction toward a checkpoint, neither normalised nor partly ignored, ends there at 1.
        """
        directions = self.directions
        ends = {"alpha": (1.0, 0.0), "beta": (0.0, 1.0)}
        return tuple(
            ends[axis]
            for axis, spec in sorted(directions.items())
            if axis in ends
            and axis in self.axes
            and spec.get("kind") == "toward"
            and spec.get("normalize", "none") == "none"
            and not spec.get("ignore")
        )

    @property
    def done(self) -> NDArray[np.bool_]:
        """Mask of the cells whose quantities are results."""
        done: NDArray[np.bool_] = np.equal(self.status, DONE)
        return done

    def masked(self, quantity: str) -> np.ma.MaskedArray[Any, np.dtype[np.float64]]:
        """Return a quantity with every cell that is not done masked.

        Raises:
            KeyError: If the surface has no such quantity.
        """
        return np.ma.masked_array(self.quantities[quantity], mask=~self.done)

    def counts(self) -> dict[str, int]:
        """Return the number of cells by state: ``done``, ``missing``, ``failed``."""
        return _counts(self.status)


def _counts(status: NDArray[np.uint8]) -> dict[str, int]:
    states = (("done", DONE), ("missing", MISSING), ("failed", FAILED))
    return {word: int((status == state).sum()) for word, state in states}
