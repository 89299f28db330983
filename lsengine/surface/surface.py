"""The surface as a value: axes, quantities, and which cells they exist for.

What readers of a file get (`lsengine.store.read`) and renderers and exporters draw.

Shape suffixes: B betas, A alphas, R repeats; a curve is (A,) or (R, A), a plane (B, A).
C control points and S samples of a trained curve.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lsengine.external.optional import library
from lsengine.surface.identity import read_identity
from lsengine.surface.parts import Size, sizes

if TYPE_CHECKING:
    import xarray

MISSING, DONE, FAILED = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Trajectory:
    """Checkpoints projected on the two directions.

    Attributes:
        columns: The datasets of the file's group, (T,), with ``alpha``, ``beta`` and ``epoch``.
        attributes: The group's attributes, ``explained_variance_ratio`` among them.
    """

    columns: Mapping[str, NDArray[Any]]
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def unit(self) -> str:
        """What the column ``epoch`` counts: epochs, or steps, or checkpoints."""
        return str(self.attributes.get("unit", "epoch"))

    @property
    def done(self) -> NDArray[np.bool_]:
        """Mask (T,) of the checkpoints whose losses are results."""
        unknown = np.zeros(self.columns["epoch"].shape)
        return np.asarray(self.columns.get("status", unknown) == DONE)

    def counts(self) -> dict[str, int] | None:
        """Return the number of checkpoints by state, None if they are no cells."""
        return _counts(self.columns["status"]) if "status" in self.columns else None

    def to_xarray(self) -> xarray.Dataset:
        """Return all columns along the coordinate ``epoch``.

        Raises:
            EnvironmentUnfit: If xarray is missing.
        """
        return library("xarray", "netcdf", "to_xarray").Dataset(  # type: ignore[no-any-return]
            {name: ("epoch", column) for name, column in self.columns.items()},
            attrs=dict(self.attributes),
        )

    @property
    def lr_drops(self) -> NDArray[np.bool_]:
        """Mask (T,) of the last checkpoints before the learning rate drops.

        A rate that differs at each of more than three checkpoints follows a smooth schedule, such
        as a cosine.  It drops nowhere.
        """
        rate_T = self.columns.get("learning_rate")
        if rate_T is None or len(rate_T) < 2 or _is_smooth(rate_T):
            return np.zeros(self.columns["epoch"].shape, np.bool_)
        with np.errstate(invalid="ignore"):
            return np.append(rate_T[1:] < rate_T[:-1], False)


def _is_smooth(rate_T: NDArray[np.float64]) -> bool:
    known = rate_T[np.isfinite(rate_T)]
    return len(known) > 3 and bool((known[1:] != known[:-1]).all())


@dataclass(frozen=True, slots=True)
class PlaneCurve:
    """A trained curve between two minima, in the plane of its ends and a bend.

    Points (S, 2) and control points (C, 2), both minima first and last, are alpha and beta;
    ``distance`` is that of the control points from the plane, (C,).
    """

    points: NDArray[np.float64]
    controls: NDArray[np.float64]
    distance: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Surface:
    """Metrics over a grid, as far as they have been computed.

    Attributes:
        source: Where it was read from, for messages and captions.
        axes: Coordinates by axis name in the order of the arrays' axes: ``alpha``;
            ``beta, alpha``; or ``repeat, alpha``.
        quantities: Float arrays by name (``train_loss``, ``test_accuracy``, ...), all of the
            shape of the axes.  NaN may be a legitimate value: ask ``status``, not the array.
        status: uint8 of the same shape; 0 missing, 1 done, 2 failed.
        provenance: Per-cell facts that are no results: ``wall_s``, ``worker``, ``finished``
            (seconds since the epoch), ``failure`` (bytes).
    """

    name: str
    source: str
    axes: Mapping[str, NDArray[np.float64]]
    quantities: Mapping[str, NDArray[np.float64]]
    status: NDArray[np.uint8]
    provenance: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    trajectory: Trajectory | None = None
    curve: PlaneCurve | None = None

    def renamed(self, name: str) -> Surface:
        """Return the same surface under another name."""
        return replace(self, name=name)

    def part(self, axis: str, inside: NDArray[np.bool_]) -> Surface:
        """Return the cells at some of the coordinates of an axis, a mask of these."""
        place = list(self.axes).index(axis)

        def some(values: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            return {name: np.compress(inside, array, place) for name, array in values.items()}

        return replace(
            self,
            axes={**self.axes, axis: self.axes[axis][inside]},
            quantities=some(self.quantities),
            status=np.compress(inside, self.status, place),
            provenance=some(self.provenance),
        )

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
        directions = (read_identity(self.attributes) or {}).get("directions")
        return directions if isinstance(directions, dict) else {}

    @property
    def direction_sizes(self) -> Mapping[str, Size]:
        """By axis the length of the direction, by kind of parameter; nothing in older files."""
        return sizes(self.attributes)

    @property
    def is_trained_curve(self) -> bool:
        """Whether alpha is the parameter of a curve between two minima."""
        return not self.is_plane and self.directions.get("alpha", {}).get("kind") == "curve"

    @property
    def marked_minima(self) -> tuple[tuple[float, float], ...]:
        """Alpha and beta of the other checkpoints that whole directions lead to.

        A direction toward a checkpoint, neither normalised nor partly ignored, ends there at 1.
        """
        ends = {"alpha": (1.0, 0.0), "beta": (0.0, 1.0)}
        specs = {axis: self.directions.get(axis, {}) for axis in ends if axis in self.axes}
        toward = {axis: spec for axis, spec in specs.items() if spec.get("kind") == "toward"}
        return tuple(
            ends[axis]
            for axis, spec in toward.items()
            if spec.get("normalize", "none") == "none"
            and not (spec.get("ignore") or spec.get("only"))
        )

    @property
    def done(self) -> NDArray[np.bool_]:
        """Mask of the cells whose quantities are results."""
        return np.asarray(self.status == DONE)

    def masked(self, quantity: str) -> np.ma.MaskedArray[Any, np.dtype[np.float64]]:
        """Return a quantity with every cell that is not done masked.

        Raises:
            KeyError: If the surface has no such quantity.
        """
        return np.ma.masked_array(self.quantities[quantity], mask=~self.done)

    def counts(self) -> dict[str, int]:
        """Return the number of cells by state: ``done``, ``missing``, ``failed``."""
        return _counts(self.status)

    @property
    def unconverged(self) -> int | None:
        """Number of done cells whose eigenvalues are not as good as asked for; None without any."""
        if "converged" not in self.quantities:
            return None
        return int((self.done & (self.quantities["converged"] == 0)).sum())

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Mask of the cells without a result, as `numpy.ma` has it: the contrary of `done`."""
        return ~self.done

    @property
    def alpha(self) -> NDArray[np.float64]:
        """Coordinates along the first direction, (A,)."""
        return self.axes["alpha"]

    @property
    def beta(self) -> NDArray[np.float64] | None:
        """Coordinates along the second direction, (B,); None if there is none."""
        return self.axes.get("beta")

    @property
    def repeat(self) -> NDArray[np.float64] | None:
        """Numbers of the repeats, (R,); None if there are none."""
        return self.axes.get("repeat")

    @property
    def job(self) -> str:
        """The resolved job, YAML; empty in other programs' files."""
        return str(self.attributes.get("job", ""))

    def to_xarray(self) -> xarray.Dataset:
        """Return quantities and ``status`` with named coordinates.

        Cells without a result are NaN, which a result may be, too: ask ``status``.

        Raises:
            EnvironmentUnfit: If xarray is missing.
        """
        dims = tuple(self.axes)
        arrays = {**self.quantities, "status": self.status}
        return library("xarray", "netcdf", "to_xarray").Dataset(  # type: ignore[no-any-return]
            {name: (dims, values) for name, values in arrays.items()},
            coords={axis: (axis, values) for axis, values in self.axes.items()},
            attrs={"name": self.name, "source": self.source, **self.attributes},
        )

    def to_datatree(self) -> xarray.DataTree:
        """Return `to_xarray` as a tree, with a trajectory as its branch ``trajectory``.

        The tree's coordinates have no index: those that do are inherited, and a trajectory's
        ``alpha`` would be the grid's.

        Raises:
            EnvironmentUnfit: If xarray is missing.
        """
        branches = {"/": self.to_xarray().drop_indexes(list(self.axes))}
        if self.trajectory is not None:
            branches["/trajectory"] = self.trajectory.to_xarray()
        tree = library("xarray", "netcdf", "to_datatree").DataTree
        return tree.from_dict(branches)  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        counts, size = self.counts(), self.status.size
        words = f"{counts['done']:,} of {size:,} cells done"
        failed = f", {counts['failed']:,} failed" if counts["failed"] else ""
        lines = [f"<lsengine surface {self.name!r}: {words}{failed}>", "axes:"]
        for axis, values in self.axes.items():
            lines.append(f"    {axis:20} {len(values):,} from {values[0]:g} to {values[-1]:g}")
        lines.append(f"quantities {self.status.shape}:")
        for name, values in self.quantities.items():
            finite = values[self.done & np.isfinite(values)]
            span = f"{finite.min():.4g} to {finite.max():.4g}" if finite.size else "none yet"
            lines.append(f"    {name:20} {span}")
        if self.trajectory is not None:
            lines += ["trajectory:", f"    {len(self.trajectory.columns['epoch']):,} checkpoints"]
        return "\n".join(lines)


def _counts(status: NDArray[np.uint8]) -> dict[str, int]:
    states = (("done", DONE), ("missing", MISSING), ("failed", FAILED))
    return {word: int((status == state).sum()) for word, state in states}
