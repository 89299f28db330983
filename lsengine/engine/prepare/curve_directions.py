"""The plane of a trained curve: through both of its ends and a bend."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from lsengine.engine.prepare.directions import control_points
from lsengine.engine.prepare.selection import movable_tensors
from lsengine.errors import UsageError
from lsengine.geometry import curve
from lsengine.geometry.projection import axis_range
from lsengine.job import Job
from lsengine.job.direction_types import CurveDirection
from lsengine.store import CurveLayout

_PIECES = 60  # straight pieces of the drawn curve, between two control points


def curve_directions(
    job: Job, model: nn.Module
) -> tuple[dict[str, dict[str, Tensor]], CurveLayout | None]:
    """Compute the plane of a job's curve, none if it has none.

    Returns:
        By axis, unit vectors at a right angle; and the curve as it lies there.

    Raises:
        UsageError: If the file holds no curve of this network and centre, no such bend, or
            its points span no plane.
    """
    if not job.is_curve_plane:
        return {}, None
    spec = job.directions["alpha"]
    assert isinstance(spec, CurveDirection)
    controls = control_points(job, movable_tensors(job, model, spec), spec)
    try:
        plane = curve.plane(controls, spec.bend)
    except ValueError as error:
        raise UsageError(f"directions.alpha: {spec.path}: {error}") from None
    t_S = np.linspace(0.0, 1.0, _PIECES * (len(controls) - 1) + 1)
    layout = CurveLayout(
        t=t_S,
        points=curve.curve_in_plane(plane, spec.shape, t_S),
        controls=plane.coordinates,
        distance=plane.distance,
        attributes={"shape": spec.shape, "bend": spec.bend},
    )
    return dict(zip(("alpha", "beta"), plane.directions, strict=True)), layout


def ranges(job: Job, layout: CurveLayout) -> dict[str, tuple[float, float]]:
    """Return (start, stop) by axis that cover curve and control points, and the job's margin."""
    points = np.concatenate([layout.points, layout.controls])
    return {axis: axis_range(points[:, k], job.margin) for k, axis in enumerate(("alpha", "beta"))}
