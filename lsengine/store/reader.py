"""Reading surface files, also while they are written.

Whatever is read has the types and shapes of `docs/FORMAT.md`, or there is a message.  So no
command has to look at them again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from lsengine.errors import SurfaceError
from lsengine.store import attributes as said
from lsengine.store import cells, checksums, damage, loss_landscape
from lsengine.store.file import AXES, FORMAT, directions_group, opened, read_direction
from lsengine.store.validation import Content
from lsengine.surface import Surface, Trajectory, drawn
from lsengine.surface.grid import Grid
from lsengine.surface.identity import read_identity
from lsengine.surface.parts import Part, Selection, parts
from lsengine.wording import one_line


@contextmanager
def _content(path: str | Path, *formats: str) -> Iterator[Content]:
    with opened(Path(path), FORMAT, *formats) as file:
        yield Content(file, SurfaceError)


def read(path: str | Path) -> Surface:
    """Read a surface, also one that is being written, or one of loss-landscape.

    ``status`` is read before the values, so that every cell it calls done has its values.  A cell
    whose values do not fit its checksum counts as missing; a warning names it.

    Raises:
        UsageError: If there is no such file.
        SurfaceError: If it is damaged or no surface file.
    """
    with _content(path, loss_landscape.FORMAT) as content:
        if loss_landscape.is_one(content.group):
            return loss_landscape.read(content, Path(path))
        axes = cells.axes(content)
        grid, run = cells.of_grid(content, tuple(map(len, axes.values()))), cells.of_run(content)
        damage.warn(Path(path), content.group, grid, run)
        attributes = said.read(content)
        if "precision_error" in content:
            content.floats("precision_error", (3, 4))
        return Surface(
            name=one_line(attributes.get("name", Path(path).stem)),  # a stranger's may be anything
            source=str(path),
            axes=axes,
            quantities=grid.quantities,
            status=grid.status,
            provenance=cells.times(grid.provenance),
            attributes=attributes,
            trajectory=cells.trajectory(content, run, is_plane="beta" in axes),
            curve=cells.curve(content),
        )


def read_attributes(path: Path, required: Collection[str] = ()) -> dict[str, Any]:
    """Return the root attributes; those that are ``required`` are there; raises like `read`."""
    with _content(path) as content:
        return said.read(content, required)


def read_status(path: Path, *, checked: bool = True) -> NDArray[np.uint8]:
    """Return ``status`` of all cells, flat, checkpoints last: (C + T,); raises like `read`.

    Those that do not fit their checksums are missing, unless it shall be quick: not ``checked``.
    """
    with _content(path) as content:
        if not checked:
            groups = checksums.groups(content.group)
            return np.concatenate([group["status"][...].ravel() for group in groups])
        found = (cells.of_grid(content), cells.of_run(content))
        return np.concatenate([of.status.ravel() for of in found if of is not None])


def read_grid(path: Path) -> Grid:
    """Return the coordinates; raises like `read`."""
    with _content(path) as content:
        return Grid(cells.axes(content))


def read_trajectory(path: Path) -> Trajectory | None:
    """Return the group of checkpoints, None if there is none; raises like `read`."""
    with _content(path) as content:
        return cells.trajectory(content, cells.of_run(content), is_plane="beta" in content)


def read_directions(path: Path) -> dict[str, dict[str, NDArray[Any]]]:
    """Return the stored directions by axis and parameter name; raises like `read`.

    A file that has changed since it was laid out is refused.  Each direction has the shape that the
    file says its parameter has.  Of a direction file of github.com/tomgoldstein/loss-landscape the
    names are numbers, in the order of the network's parameters, or of its state dict.
    """
    with _content(path, loss_landscape.FORMAT) as content:
        if loss_landscape.is_one(content.group):
            return loss_landscape.read_directions(content)
        damage.refuse(Path(path), cells=False)
        shapes = {name: tuple(shape) for name, shape, _ in said.state(content)}
        found = {}
        for axis, group in direction_groups(content.group).items():
            inner = Content(group, content.error)
            found[axis] = {name: _direction(inner, name, shapes) for name in inner}
        _refuse_other_counts(content, found, shapes)
        return found


def _direction(inner: Content, name: str, shapes: dict[str, tuple[int, ...]]) -> NDArray[Any]:
    """Return one parameter's direction; it may have a leading axis of repeats or points."""
    dataset = inner.dataset(name)
    is_complex = bool(inner.flag(name, "complex"))
    if dataset.dtype not in (np.float32, np.float64):
        raise inner.damage(f"{inner.path(name)} is {dataset.dtype}; expected float32 or float64")
    shape = tuple(dataset.shape)[: -1 if is_complex else None]
    expected = shapes.get(name, shape)
    if is_complex and dataset.shape[-1:] != (2,):
        raise inner.damage(f"{inner.path(name)} is no row of pairs")
    if (shapes and name not in shapes) or expected not in (shape, shape[1:]):
        known = f"a parameter of shape {expected}" if name in shapes else "no parameter"
        raise inner.damage(f"{inner.path(name)} has the shape {shape}, and is of {known}")
    return read_direction(dataset)


def _refuse_other_counts(
    content: Content,
    directions: dict[str, dict[str, NDArray[Any]]],
    shapes: dict[str, tuple[int, ...]],
) -> None:
    """Refuse directions that are more or fewer than the repeats, or than the points of a curve."""
    axes = cells.axes(content)
    for axis, of_axis in directions.items():
        known = {name: values for name, values in of_axis.items() if name in shapes}
        counts = {len(v) if v.ndim > len(shapes[n]) else None for n, v in known.items()}
        one = len(axes["repeat"]) if "repeat" in axes else None
        is_free = list(axes) == ["alpha"]  # along a curve there may be any number of points
        if len(counts) > 1 or (known and counts != {one} and not is_free):
            raise content.damage(f"the directions along {axis} are not one for each repeat")


def read_drawn(path: Path) -> drawn.Digests:
    """Return the digests of directions that the file does not hold, as they are drawn again.

    Empty if it holds them, or none; raises like `read`.
    """
    with _content(path, loss_landscape.FORMAT) as content:
        return said.drawn(content)


def direction_groups(file: h5py.File) -> dict[str, h5py.Group]:
    """Return the stored directions of an open surface file by axis."""
    group, version = file.get("directions", {}), int(file.attrs["format_version"])
    names = {axis: directions_group(axis, version) for axis in AXES}
    return {axis: group[name] for axis, name in names.items() if name in group}


def read_state(path: Path) -> list[tuple[str, list[int], bool]]:
    """Return name, shape, and whether it is a parameter, of the network's whole state dict.

    Empty if the file does not say it; raises like `read`.
    """
    with _content(path, loss_landscape.FORMAT) as content:
        return said.state(content)


def read_parts(path: Path) -> dict[str, dict[str, Part]]:
    """Return by axis which parameters move and which stay, as far as the file says it.

    Raises like `read`.
    """
    with _content(path, loss_landscape.FORMAT) as content:
        state = said.state(content)
        if loss_landscape.is_one(content.group) or not state:
            return {}
        identity = read_identity(said.read(content)) or {}
        specs = identity.get("directions") or {}
        statistics = identity.get("batch_norm")
        policy = str(statistics.get("policy", "")) if isinstance(statistics, dict) else ""
        moved = {axis: set(group) for axis, group in direction_groups(content.group).items()}
        moved |= {axis: set(of_axis) for axis, of_axis in said.drawn(content).items()}
        words = said.roles(content)
        return {
            axis: parts(state, names, _selection(specs.get(axis) or {}), words, policy)
            for axis, names in moved.items()
        }


def _selection(spec: dict[str, Any]) -> Selection:
    return Selection.said(spec.get("only"), spec.get("ignore") or ())
