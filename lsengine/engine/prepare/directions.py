"""The directions of a job: drawn, differenced or read from a file, then normalised."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lsengine import devices
from lsengine.engine.prepare.normalisation import normalisation, units_named
from lsengine.engine.prepare.selection import movable_tensors
from lsengine.errors import SurfaceError, UsageError
from lsengine.geometry import curve, directions
from lsengine.geometry.parameters import can_move, misfit, selected
from lsengine.geometry.units import Units
from lsengine.job import Job
from lsengine.job.direction_types import (
    CurveDirection,
    FileDirection,
    HessianDirection,
    PrincipalDirection,
    RandomDirection,
    TowardDirection,
)
from lsengine.models import checkpoint, sealed
from lsengine.objective import Directions, Steps
from lsengine.store import read_attributes, read_directions, read_drawn
from lsengine.surface import drawn
from lsengine.surface.grid import Cell
from lsengine.wording import listed

Arrays = dict[str, dict[str, NDArray[Any]]]


@devices.one_thread()
def make_directions(job: Job, model: nn.Module, computed: Directions | None = None) -> Arrays:
    """Draw, difference or read the directions of a job; normalise them to the weights.

    The model is at the centre, on the CPU.  ``computed`` are by axis the directions of kind hessian
    and principal, and of a curve's plane.  All is done on one thread, so that every rank that
    makes them gets the same bits.

    Returns:
        By axis and parameter name; with repeats each array has a leading axis, along a curve
        too: of its control points but the first.

    Raises:
        UsageError: If a file or checkpoint does not fit the model, or nothing moves.
    """
    repeats: dict[str, list[dict[str, Tensor]]] = {}
    for number, (axis, spec) in enumerate(job.directions.items()):
        centre = movable_tensors(job, model, spec)
        repeats[axis], how = [], normalisation(model, axis, spec)
        if isinstance(spec, CurveDirection) and not job.is_curve_plane:
            first, *others = control_points(job, centre, spec)
            repeats[axis] = [directions.toward(first, control) for control in others]
            continue
        for repeat in range(job.document.repeats):
            if isinstance(spec, HessianDirection | PrincipalDirection | CurveDirection):
                assert computed is not None
                raw = dict(computed[axis])
            else:
                raw = _raw(job, model, axis, spec, centre, (number, repeat))
            if isinstance(spec, RandomDirection) and spec.orthogonal and axis == "beta":
                with units_named(f"directions.{axis}.orthogonal"):
                    raw = _orthogonal(raw, repeats["alpha"][0], centre, how)
            weights = {name: centre[name] for name in raw}
            with units_named(f"directions.{axis}.normalize"):
                repeats[axis].append(directions.normalized(raw, weights, how))
        _refuse_zero_direction(axis, repeats[axis][0])
    if all(len(d) == 1 for d in repeats.values()):
        return {a: {n: t.numpy() for n, t in d[0].items()} for a, d in repeats.items()}
    return {a: {n: np.stack([r[n].numpy() for r in d]) for n in d[0]} for a, d in repeats.items()}


def directions_of(job: Job, model: nn.Module, path: Path) -> Arrays:
    """Return the directions of a surface file; those that it does not hold are drawn again.

    The model is at the centre, on the CPU.

    Raises:
        SurfaceError: If what is drawn is not what was drawn when the file was made.
    """
    expected = read_drawn(path)
    if not expected:
        return read_directions(path)
    arrays = make_directions(job, model)
    found = drawn.digests(arrays, repeats=job.document.repeats > 1)
    if differs := drawn.difference(found, expected):
        version = read_attributes(path).get("numpy_version")
        raise SurfaceError(
            "{}: its direction {} is not drawn again as it was: {} has other numbers (NumPy {} "
            "here, {} in the file; processors differ, too, in the last bits of norms); use what "
            "it was begun with, or directions.stored: true and another output".format(
                path, *differs, np.__version__, version
            )
        )
    return arrays


def cell_steps(
    job: Job, stored: Mapping[str, Mapping[str, NDArray[Any]]]
) -> tuple[list[dict[str, Tensor]], Steps]:
    """Return directions as a file has them, and how far a cell lies along each.

    Along a curve there are as many as control points but one.
    """
    along = [{n: torch.from_numpy(v) for n, v in axis.items()} for axis in stored.values()]
    spec = job.directions["alpha"]
    if not isinstance(spec, CurveDirection) or job.is_curve_plane:
        return along, lambda cell: (cell.alpha, cell.beta)
    count = len(next(iter(along[0].values())))

    def steps(cell: Cell) -> Sequence[float]:
        weights = curve.coefficients(spec.shape, count - 1, cell.alpha)
        return [float(weight) for weight in weights[1:]]

    return [{n: t[k] for n, t in along[0].items()} for k in range(count)], steps


def cosine(arrays: Sequence[Mapping[str, NDArray[Any]]]) -> float | None:
    """Return the cosine between the two directions of a plane, None for a curve."""
    both = [{n: torch.from_numpy(v) for n, v in array.items()} for array in arrays]
    return directions.cosine(*both) if len(both) == 2 else None


def _raw(
    job: Job,
    model: nn.Module,
    axis: str,
    spec: RandomDirection | TowardDirection | FileDirection,
    centre: Mapping[str, Tensor],
    seeds: tuple[int, int],
) -> dict[str, Tensor]:
    if isinstance(spec, RandomDirection):
        # Drawn for every parameter, so that `only` and `ignore` do not change the others.
        everything = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        movable = {n: t for n, t in everything.items() if can_move(t)}
        drawn = directions.draw(movable, seed=spec.seed, axis=seeds[0], repeat=seeds[1])
        return {n: drawn[n] for n in centre}
    if isinstance(spec, TowardDirection):
        key = f"directions.{axis}.checkpoint"
        other = checkpoint.load(job.path(spec.checkpoint), key=key, spec=job.document.model)
        end = checkpoint.fitted(model, other, key=key, needed=centre)
        return directions.toward(centre, selected(end, centre))
    assert isinstance(spec, FileDirection)
    stored = stored_direction(job, spec, axis, model)
    # What a stored direction does not have does not move; what it has must be in the model.
    _refuse_foreign(stored, model, axis, spec.path)
    tensors = {n: torch.from_numpy(a) for n, a in stored.items()}
    return require_shapes(tensors, selected(centre, stored), axis, spec.path)


def control_points(
    job: Job, centre: Mapping[str, Tensor], spec: CurveDirection
) -> list[dict[str, Tensor]]:
    """Return a curve's control points, of which the first is the centre.

    Raises:
        UsageError: If the file holds no curve, or one of another network or centre.
    """
    key = "directions.alpha.path"
    content = sealed.read(job.path(spec.path), key=key)
    controls = content.get("controls")
    if not isinstance(controls, list) or len(controls) < 2:
        raise UsageError(f'{key}: {spec.path} is no curve; "lsengine connect" writes one')
    movable = selected(centre, controls[0])
    points = [require_shapes(control, movable, "alpha", spec.path) for control in controls]
    if any(not torch.equal(t, points[0][n]) for n, t in movable.items()):
        raise UsageError(f"{key}: {spec.path} does not begin at model.checkpoint")
    return points


def stored_direction(
    job: Job, spec: FileDirection, axis: str, model: nn.Module
) -> dict[str, NDArray[Any]]:
    """Return a direction out of a file, by parameter name.

    Raises:
        UsageError: If the file holds no such direction, or one of another network.
    """
    try:
        by_name = read_directions(job.path(spec.path))
    except SurfaceError as error:
        raise UsageError(f"directions.{axis}.path: {error}") from None
    if spec.which in read_drawn(job.path(spec.path)):
        raise UsageError(
            f"directions.{axis}.path: {spec.path} does not hold its random directions, as its job "
            "says directions.stored: false; give the direction of that job here, of kind random"
        )
    if spec.which not in by_name:
        raise UsageError(
            f"directions.{axis}.which: {spec.path} has no direction {spec.which}; it has "
            f"{', '.join(by_name) or 'none'}"
        )
    stored, state = by_name[spec.which], model.state_dict()
    if not all(name.isdigit() for name in stored):
        if stored and all(n in state and a.ndim == state[n].ndim + 1 for n, a in stored.items()):
            raise UsageError(
                f"directions.{axis}.path: {spec.path} has {len(next(iter(stored.values())))} "
                "repeats, each with a direction of its own; name a surface without repeats"
            )
        return stored
    orders = [[n for n, _ in model.named_parameters()], list(state)]
    for names in orders:
        if len(names) == len(stored):
            return {name: stored[str(i)] for i, name in enumerate(names)}
    raise UsageError(
        f"directions.{axis}.path: {spec.path} holds {len(stored)} numbered tensors; the model has "
        f"{len(orders[0])} parameters and {len(orders[1])} entries in its state dict"
    )


def require_shapes(
    other: Mapping[str, Tensor], centre: Mapping[str, Tensor], axis: str, source: str
) -> dict[str, Tensor]:
    """Return the centre's parameters out of another source, which may have more.

    Raises:
        UsageError: With what is missing there or has another shape.
    """
    parameters = selected(other, centre)
    if differences := misfit(parameters, centre):
        raise UsageError(f"directions.{axis}: {source} does not fit the model: {differences}")
    return parameters


def _refuse_foreign(names: Iterable[str], model: nn.Module, axis: str, source: str) -> None:
    """Refuse parameters that the model does not have."""
    state = model.state_dict()
    if foreign := [name for name in names if name not in state]:
        raise UsageError(
            f"directions.{axis}: {source} does not fit the model: unexpected: {listed(foreign)}"
        )


def _orthogonal(
    raw: dict[str, Tensor],
    alpha: Mapping[str, Tensor],
    centre: Mapping[str, Tensor],
    how: str | Units,
) -> dict[str, Tensor]:
    """Make beta orthogonal to alpha in a way that its normalisation keeps."""
    if how == "weight":
        raw = {n: d * centre[n].abs() for n, d in raw.items()}
        return {
            n: torch.where(centre[n] != 0, d / centre[n].abs(), 0.0)
            for n, d in directions.orthogonalized(raw, alpha, "none").items()
        }
    return directions.orthogonalized(raw, alpha, how)


def _refuse_zero_direction(axis: str, direction: Mapping[str, Tensor]) -> None:
    if not direction or not any(bool(t.count_nonzero()) for t in direction.values()):
        raise UsageError(
            f"directions.{axis}: nothing moves; every parameter is ignored or the direction is "
            "zero (the same checkpoint as the centre?)"
        )
