"""Reading what a surface file holds beside its cells: a trajectory, a trained curve."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np

from lsengine.surface import PlaneCurve, Trajectory


def trajectory(file: h5py.File) -> Trajectory | None:
    """Return the group of checkpoints, None if there is none."""
    group = file.get("trajectory")
    if group is None:
        return None
    first = ("status",) if "status" in group else ()  # values of cells that it calls done
    columns = {name: group[name][...] for name in (*first, *group)}
    return Trajectory(columns, {k: plain(v) for k, v in group.attrs.items()})


def curve(file: h5py.File) -> PlaneCurve | None:
    """Return the trained curve that lies in the plane, None if there is none."""
    group = file.get("curve")
    if group is None:
        return None
    points, controls = (
        np.stack([group[f"{prefix}alpha"][...], group[f"{prefix}beta"][...]], axis=1)
        for prefix in ("", "control_")
    )
    return PlaneCurve(points, controls, group["control_distance"][...])


def plain(value: Any) -> Any:
    """Return an attribute's value as Python's own, where there is one."""
    if isinstance(value, bytes):
        return value.decode()
    return value.item() if isinstance(value, np.generic) else value
