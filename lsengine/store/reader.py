"""Reading surface files, also while they are written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from lsengine.store import loss_landscape
from lsengine.store.file import (
    AXES,
    FORMAT,
    PROVENANCE,
    directions_group,
    opened,
    plain,
    quantity_names,
    read_direction,
    scale_name,
)
from lsengine.surface import PlaneCurve, Surface, Trajectory, drawn
from lsengine.surface.grid import Grid
from lsengine.surface.identity import read_identity
from lsengine.surface.parts import Part, Selection, parts, read_roles


def read(path: str | Path) -> Surface:
    """Read a surface, also one that is being written, or one of loss-landscape.

    ``status`` is read before the values, so that every cell it calls done has its values.

    Raises:
        UsageError: If there is no such file.
        SurfaceError: If it is damaged or no surface file.
    """
    with opened(Path(path), FORMAT, loss_landscape.FORMAT) as file:
        if loss_landscape.is_one(file):
            return loss_landscape.read(file, Path(path))
        status = file["status"][...]
        attributes = {k: plain(v) for k, v in file.attrs.items()}
        return Surface(
            name=str(attributes.get("name", Path(path).stem)),
            source=str(path),
            axes={scale_name(d): file[scale_name(d)][...] for d in file["status"].dims},
            quantities={name: file[name][...] for name in quantity_names(file)},
            status=status,
            provenance={name: file[name][...] for name in PROVENANCE if name in file},
            attributes=attributes,
            trajectory=_trajectory(file),
            curve=_curve(file),
        )


def read_attributes(path: Path) -> dict[str, Any]:
    """Return the root attributes; raises like `read`."""
    with opened(path, FORMAT) as file:
        return {k: plain(v) for k, v in file.attrs.items()}


def read_status(path: Path) -> NDArray[np.uint8]:
    """Return ``status`` of all cells, flat, checkpoints last: (C + T,); raises like `read`."""
    with opened(path, FORMAT) as file:
        status = np.asarray(file["status"][...]).ravel()
        group = file.get("trajectory", {})
        return np.concatenate([status, group["status"][...]]) if "status" in group else status


def read_grid(path: Path) -> Grid:
    """Return the coordinates; raises like `read`."""
    with opened(path, FORMAT) as file:
        return Grid({scale_name(d): file[scale_name(d)][...] for d in file["status"].dims})


def read_trajectory(path: Path) -> Trajectory | None:
    """Return the group of checkpoints, None if there is none; raises like `read`."""
    with opened(path, FORMAT) as file:
        return _trajectory(file)


def read_directions(path: Path) -> dict[str, dict[str, NDArray[Any]]]:
    """Return the stored directions by axis and parameter name; raises like `read`.

    Of a direction file of github.com/tomgoldstein/loss-landscape the names are numbers, in the
    order of the network's parameters, or of its state dict.
    """
    with opened(path, FORMAT, loss_landscape.FORMAT) as file:
        if loss_landscape.is_one(file):
            return loss_landscape.read_directions(file)
        return {
            axis: {name: read_direction(values) for name, values in group.items()}
            for axis, group in direction_groups(file).items()
        }


def read_drawn(path: Path) -> drawn.Digests:
    """Return the digests of directions that the file does not hold, as they are drawn again.

    Empty if it holds them, or none; raises like `read`.
    """
    with opened(path, FORMAT, loss_landscape.FORMAT) as file:
        return drawn.read(_text(file, "directions/drawn"))


def direction_groups(file: h5py.File) -> dict[str, h5py.Group]:
    """Return the stored directions of an open surface file by axis."""
    group, version = file.get("directions", {}), int(file.attrs["format_version"])
    names = {axis: directions_group(axis, version) for axis in AXES}
    return {axis: group[name] for axis, name in names.items() if name in group}


def read_state_dict_layout(path: Path) -> str:
    """Return `Layout.state_dict_layout`, empty if the file does not say it; raises like `read`."""
    with opened(path, FORMAT, loss_landscape.FORMAT) as file:
        return _text(file, "directions/state")


def read_parts(path: Path) -> dict[str, dict[str, Part]]:
    """Return by axis which parameters move and which stay, as far as the file says it.

    Raises like `read`.
    """
    with opened(path, FORMAT, loss_landscape.FORMAT) as file:
        state = json.loads(_text(file, "directions/state") or "[]")
        if loss_landscape.is_one(file) or not state:
            return {}
        roles = read_roles(_text(file, "directions/roles"))
        identity = read_identity({k: plain(v) for k, v in file.attrs.items()}) or {}
        specs = identity.get("directions", {})
        moved = {axis: set(group) for axis, group in direction_groups(file).items()}
        again = drawn.read(_text(file, "directions/drawn"))
        moved |= {axis: set(of_axis) for axis, of_axis in again.items()}
        return {
            axis: parts(state, names, _selection(specs.get(axis, {})), roles)
            for axis, names in moved.items()
        }


def _selection(spec: dict[str, Any]) -> Selection:
    return Selection.said(spec.get("only"), spec.get("ignore", ()))


def _text(file: h5py.File, name: str) -> str:
    return bytes(file[name][()]).decode() if name in file else ""


def _trajectory(file: h5py.File) -> Trajectory | None:
    """Return the group of checkpoints, None if there is none."""
    group = file.get("trajectory")
    if group is None:
        return None
    first = ("status",) if "status" in group else ()  # values of cells that it calls done
    columns = {name: group[name][...] for name in (*first, *group)}
    return Trajectory(columns, {k: plain(v) for k, v in group.attrs.items()})


def _curve(file: h5py.File) -> PlaneCurve | None:
    """Return the trained curve that lies in the plane, None if there is none."""
    group = file.get("curve")
    if group is None:
        return None
    points, controls = (
        np.stack([group[f"{prefix}alpha"][...], group[f"{prefix}beta"][...]], axis=1)
        for prefix in ("", "control_")
    )
    return PlaneCurve(points, controls, group["control_distance"][...])
