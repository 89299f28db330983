"""The plane of a trained curve: through both of its ends and a bend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from lsengine.engine.prepare.directions import control_points, movable_tensors
from lsengine.errors import UsageError
from lsengine.geometry import curve
from lsengine.geometry.principal import axis_range
from lsengine.job import Job
from lsengine.job.schema import CurveDirection
from lsengine.store import CurveLayout

_PIECES = 60  # straight pieces of the drawn curve, between two control points


@dataclass(frozen=True, slots=True)
class CurveDirections:
    """A curve's plane, if a job is of one.

    Attributes:
        directions: By axis, unit vectors at a right angle; none for other jobs.
        layout: The curve as it lies there.
    """

    directions: Mapping[str, dict[str, Tensor]]
    layout: CurveLayout | None = None


def curve_directions(job: Job, model: nn.Module) -> CurveDirections:
    """Compute the plane of a job's curve; an empty one if it has none.

    Raises:
        UsageError: If the file holds no curve of this network and centre, no such bend, or
            its points span no plane.
    """
    if not job.is_curve_plane:
        return CurveDirections({})
    spec = job.directions["alpha"]
    assert isinstance(spec, CurveDirection)
    controls = control_points(job, movable_tensors(job, model, spec), spec)
    try:
        found = curve.plane(controls, spec.bend)
    except ValueError as error:
        raise UsageError(f"directions.alpha: {spec.path}: {error}") from None
    t_S = np.linspace(0.0, 1.0, _PIECES * (len(controls) - 1) + 1)
    layout = CurveLayout(
        t=t_S,
        points=curve.curve_in_plane(found, spec.shape, t_S),
        controls=found.coordinates,
        distance=found.distance,
        attributes={"shape": spec.shape, "bend": spec.bend},
    )
    return CurveDirections(dict(zip(("alpha", "beta"), found.directions, strict=True)), layout)


def ranges(job: Job, layout: CurveLayout) -> dict[str, tuple[float, float]]:
    """Return (start, stop) by axis that cover curve and control points, and the job's margin."""
    places = np.concatenate([layout.points, layout.controls])
    return {axis: axis_range(places[:, k], job.margin) for k, axis in enumerate(("alpha", "beta"))}
