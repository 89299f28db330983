"""Grid, cells, checkpoints and curve of an open surface file, each as the format wants it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsengine.store import checksums
from lsengine.store.attributes import TRAJECTORY_KINDS
from lsengine.store.checksums import Cells
from lsengine.store.file import PROVENANCE, quantity_names, scale_name
from lsengine.store.validation import Content
from lsengine.surface import FAILED, PlaneCurve, Trajectory

_AXES = (("alpha",), ("repeat", "alpha"), ("beta", "alpha"))
_LATEST_S = 1e11  # a time since 1970, or a duration: no clock has shown more
_KNOWN = ("train_", "test_", "eigenvalue_")  # how the names of quantities begin


def axes(content: Content) -> dict[str, NDArray[np.float64]]:
    """Return the coordinates by axis, in the order of the arrays' axes.

    Raises:
        SurfaceError: If they are not those of a surface; like all functions here.
    """
    dataset = content.dataset("status")
    try:
        names = tuple(scale_name(dim) for dim in dataset.dims)
    except (LookupError, RuntimeError, OSError):
        raise content.damage("an axis of status has no name") from None
    if names not in _AXES:
        allowed = ", or ".join(" x ".join(names) for names in _AXES)
        raise content.damage(f"the axes of status are {' x '.join(names)}; expected {allowed}")
    found = {}
    for name, length in zip(names, dataset.shape, strict=True):
        found[name] = content.places(name, (length,))
        if not length:
            raise content.damage(f"{name} has no coordinates")
    return found


def of_grid(content: Content, shape: Sequence[int] | None = None) -> Cells:
    """Return the cells of the grid as far as they are sound; also while they are written."""
    shape = content.dataset("status").shape if shape is None else shape
    names = quantity_names(content.group)
    for name in content:
        if name.startswith(_KNOWN) and name not in names and name not in PROVENANCE:
            names.append(name)  # of another type or shape, which its reading says
    for name in names:
        content.refuse_name(name)
    return _sound(content, names, shape)


def of_run(content: Content) -> Cells | None:
    """Return the checkpoints of a trajectory likewise, None if they are no cells."""
    if "trajectory" not in content or "status" not in (inner := content.inner("trajectory")):
        return None
    return _sound(inner, checksums.names_in(inner.group), inner.dataset("epoch").shape)


def _sound(content: Content, names: Sequence[str], shape: Sequence[int]) -> Cells:
    def read() -> Cells:
        facts = [name for name in PROVENANCE if name in content]
        has_checksums = checksums.NAME in content
        return Cells(
            status=content.array("status", (np.uint8,), shape),  # first
            quantities={name: content.floats(name, shape) for name in names},
            provenance={n: content.array(n, (PROVENANCE[n][0],), shape) for n in facts},
            stored=content.array(checksums.NAME, (np.uint32,), shape) if has_checksums else None,
        )

    cells = checksums.sound(read)
    if cells.status.max(initial=0) > FAILED:
        raise content.damage(f"{content.path('status')} has values that are no states")
    for name, least in (("worker", -1), ("batch", 0)):
        if name in cells.provenance and cells.provenance[name].min(initial=least) < least:
            raise content.damage(f"{content.path(name)} has values below {least}")
    return cells


def times(provenance: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return provenance with NaN for times that are none."""
    return {name: _times(values) for name, values in provenance.items()}


def _times(values: NDArray[Any]) -> NDArray[Any]:
    if values.dtype != np.float64:
        return values
    with np.errstate(invalid="ignore"):
        return np.where((values >= 0) & (values < _LATEST_S), values, np.nan)


def trajectory(content: Content, cells: Cells | None, *, is_plane: bool) -> Trajectory | None:
    """Return the checkpoints, None if there are none; ``cells`` is what `of_run` returns."""
    if "trajectory" not in content:
        return None
    inner = content.inner("trajectory")
    epochs = inner.array("epoch", (np.int64,), (None,))
    if (np.diff(epochs) < 0).any() or not len(epochs):
        raise content.damage("trajectory/epoch does not ascend")
    columns: dict[str, NDArray[Any]] = {} if cells is None else cells.columns
    required = {"alpha", "beta"} if is_plane else {"alpha"}
    for name in sorted({*inner} | required):
        if name not in columns and name != checksums.NAME:
            columns[name] = epochs if name == "epoch" else _column(inner, name, epochs.shape)
    return Trajectory(columns, inner.attributes(TRAJECTORY_KINDS))


def _column(inner: Content, name: str, shape: Sequence[int]) -> NDArray[Any]:
    if name in ("alpha", "beta"):
        return inner.places(name, shape)
    if name in PROVENANCE:
        return inner.array(name, (PROVENANCE[name][0],), shape)
    if name in ("source", "sha256"):
        return inner.fixed_texts(name, shape)
    return inner.floats(name, shape)


def curve(content: Content) -> PlaneCurve | None:
    """Return the trained curve that lies in the plane, None if there is none."""
    if "curve" not in content:
        return None
    inner = content.inner("curve")
    alpha, control = (inner.places(f"{of}alpha", (None,)) for of in ("", "control_"))
    beta, other = inner.places("beta", alpha.shape), inner.places("control_beta", control.shape)
    if len(alpha) < 2 or len(control) < 2:
        raise content.damage("curve has fewer than two points")
    return PlaneCurve(
        np.stack([alpha, beta], axis=1),
        np.stack([control, other], axis=1),
        inner.places("control_distance", control.shape),
    )
