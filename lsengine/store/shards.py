"""Shards of one surface made into one file: which belong together, and what is still missing."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from lsengine import files
from lsengine.errors import CellsFailed, Stopped, SurfaceError, UsageError
from lsengine.store import cells, checksums, damage, lock
from lsengine.store.digest import COLUMNS
from lsengine.store.file import (
    FORMAT,
    PROVENANCE,
    in_place_of,
    opened,
    read_direction,
    scale_name,
    writable_copy,
)
from lsengine.store.reader import direction_groups, read, read_attributes, read_drawn
from lsengine.store.validation import Content
from lsengine.surface import DONE, FAILED, MISSING, drawn
from lsengine.surface.identity import (
    differs_in_sources_known,
    disagreements,
    first_difference,
    read_identity,
    tolerance,
)
from lsengine.wording import listed

log = logging.getLogger(__name__)
_GROUPS = ("", "trajectory/")
_Columns = dict[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class Merged:
    """What came of a merge: 0, 5 if cells failed, 75 if some are missing; and the same in words."""

    code: int
    text: str


def merge(shards: Sequence[Path], output: Path) -> Merged:
    """Write the finished cells of several files of one surface into one.

    Shards may be partial, may be running, and may have cells in common.  A surface that is at
    ``output`` already is one more shard: no cell of it is lost.

    Raises:
        UsageError: If a shard is missing.
        SurfaceError: If one is damaged, belongs to another job, has other directions, or other
            values for a cell that two files have; the output stays as it was.
        EnvironmentUnfit: If the disk is full or the folder cannot be written.
    """
    files.check_target(output)
    exists = files.is_regular(output)
    sources = [p for p in shards if not (exists and files.is_regular(p) and p.samefile(output))]
    if not sources:
        raise UsageError(f"{output}: is the only shard given; there is nothing to merge")
    for path in sources:  # what is wrong with one is said before a folder is made
        damage.refuse(path, cells=False)
    files.make_folder(output.parent)
    with lock.held(output, lost=lambda: None):
        if output.exists():
            sources.append(output)
        merged = _merge(sources, output, _tolerance(sources))
    columns = [merged.get(f"{group}status", np.empty(0, np.uint8)) for group in _GROUPS]
    status = np.concatenate([column.ravel() for column in columns])
    done, failed, missing = (np.count_nonzero(status == state) for state in (DONE, FAILED, MISSING))
    text = f"{output}: {done:,} of {status.size:,} cells done, from {len(sources)} files"
    if failed:
        text += f"; {failed:,} failed: eval --retry-failed tries them again"
    if missing:
        of_grid = np.flatnonzero(merged["status"].ravel() == MISSING).tolist()
        cells = f" (cells {listed(of_grid)})" if of_grid else ""
        text += f"; {missing:,} missing{cells}: eval of the job goes on with them"
    code = CellsFailed.exit_code if failed else 0
    return Merged(Stopped.exit_code if missing else code, text)


def _tolerance(sources: Sequence[Path]) -> float:
    """Return how far common cells may differ: not at all if all files were made alike.

    Raises:
        SurfaceError: If one is of another job or has other directions.
    """
    first, *others = sources
    expected, allowed = read_attributes(first, ("precision",)), 0.0
    for path in others:
        attributes = read_attributes(path)
        _refuse_other(path, attributes, first, expected)
        for difference in disagreements(attributes, expected):
            allowed = tolerance(str(expected["precision"]))
            effect = (
                "cells agree to the precision's tolerance, not bit by bit, and where two files "
                f"have one, the losses may differ by {allowed:g} of their value"
            )
            log.warning("%s: %s; %s", path, difference.words("here", f"in {first}"), effect)
    return allowed


def _refuse_other(
    path: Path, attributes: Mapping[str, Any], first: Path, expected: Mapping[str, Any]
) -> None:
    if attributes.get("fingerprint") != expected.get("fingerprint"):
        ours, theirs = read_identity(attributes), read_identity(expected)
        if ours is not None and theirs is not None and differs_in_sources_known(ours, theirs):
            log.warning("%s: of another version than %s: sources are not compared", path, first)
            _refuse_other_layout(path, attributes, first, expected)
            return
        why = "a file does not say which job it is of"
        if ours is not None and theirs is not None:
            difference = first_difference(ours, theirs)
            why = difference.words("here", "there") if difference else "of an unknown kind"
        raise SurfaceError(f"{path}: belongs to another job than {first}: {why}")
    _refuse_other_layout(path, attributes, first, expected)


def _refuse_other_layout(
    path: Path, attributes: Mapping[str, Any], first: Path, expected: Mapping[str, Any]
) -> None:
    if attributes.get("precision") != expected.get("precision"):
        raise SurfaceError(
            f"{path}: precision is {attributes.get('precision')}, but {expected.get('precision')} "
            f"in {first}; name it in the job, and evaluate the shards anew"
        )
    if differs := _difference(first, path):
        raise SurfaceError(f"{path}: is of the same job as {first}, but {differs}")


def _difference(one: Path, other: Path) -> str | None:
    """Return what of the grid and the directions differs between two files, or None."""
    with opened(one, FORMAT) as left, opened(other, FORMAT) as right:
        if left["status"].shape != right["status"].shape:
            return f"the grid is {left['status'].shape} there, {right['status'].shape} here"
        for axis in (scale_name(dim) for dim in left["status"].dims):
            if axis not in right or left[axis][...].tobytes() != right[axis][...].tobytes():
                return f"the coordinates of {axis} differ"
        again = {path: read_drawn(path) for path in (one, other)}
        if any(again.values()):
            differs = drawn.difference(
                again[one] or _digests(left), again[other] or _digests(right)
            )
            return differs and "the direction {} differs in {}".format(*differs)
        ours, theirs = _directions(left), _directions(right)
        if ours.keys() != theirs.keys():
            return "the directions are of other parameters"
        for (axis, name), values in ours.items():
            if values[()].tobytes() != theirs[axis, name][()].tobytes():
                return f"the direction {axis} differs in {name}"
    return None


def _digests(file: h5py.File) -> drawn.Digests:
    """Return the digests of the directions that a file holds."""
    directions: dict[str, dict[str, NDArray[Any]]] = {}
    for (axis, name), item in _directions(file).items():
        directions.setdefault(axis, {})[name] = read_direction(item)
    return drawn.digests(directions, repeats="repeat" in file)


def _directions(file: h5py.File) -> dict[tuple[str, str], h5py.Dataset]:
    groups = direction_groups(file).items()
    return {(axis, name): item for axis, group in groups for name, item in group.items()}


def _merge(sources: Sequence[Path], output: Path, tolerance: float) -> _Columns:
    """Write all finished cells of ``sources`` into ``output``, and return what it has now.

    A file that is being written may be among them: its cells' status is read before their values.
    ``tolerance`` is how far losses of a cell that several files have may differ, relative to them;
    the first file's are taken.  With 0 all that is known of the cell must be the same bits.
    """
    shards = [_read(path) for path in sources]
    base = next((i for i, columns in enumerate(shards) if "trajectory/status" in columns), 0)
    merged = {name: column.copy() for name, column in shards[base].items()}
    for path, columns in zip(sources, shards, strict=True):
        where = f"in {sources[base]} or a file before"
        for group in _GROUPS:
            is_there = f"{group}status" in columns
            if is_there and (problem := _take(merged, columns, group, tolerance, where)):
                raise SurfaceError(f"{path}: {problem}; remove the file that is wrong")
    with in_place_of(output) as part, writable_copy(sources[base], part) as file:
        for name, column in merged.items():
            if name in file:
                file[name][...] = column
        for group in checksums.groups(file):
            checksums.write(group, group["status"][...])
        file.flush()
    return merged


def _read(path: Path) -> _Columns:
    """Return everything that belongs to single cells.

    Raises:
        SurfaceError: If any of it is damaged.
    """
    damage.refuse(path)
    read(path)  # refuses what has other types and shapes
    with opened(path, FORMAT) as file:
        content = Content(file, SurfaceError)
        columns, run = cells.of_grid(content).columns, cells.of_run(content)
        if run is not None:
            known = {n: d[...] for n, d in file["trajectory"].items() if d.dtype == np.float64}
            of_run = {n: c for n, c in known.items() if n in COLUMNS} | run.columns
            columns |= {f"trajectory/{name}": column for name, column in of_run.items()}
        unknown = np.full((3, 4), np.nan)
        error = file["precision_error"][...] if "precision_error" in file else unknown
        return columns | {"precision_error": error}


def _take(
    merged: _Columns, columns: _Columns, group: str, tolerance: float, where: str
) -> str | None:
    """Take over the cells that were not done before; return how those that were differ."""
    have, theirs = merged[f"{group}status"], columns[f"{group}status"]
    if have.shape != theirs.shape:
        return f"{group}status has the shape {theirs.shape}, but {have.shape} {where}"
    if lacking := _results(merged, group) ^ _results(columns, group):
        name = min(lacking)
        return f"{name} is {'there' if name in columns else 'not there'}, unlike {where}"
    both = (have == DONE) & (theirs == DONE)
    new = ((theirs == DONE) & (have != DONE)) | ((theirs == FAILED) & (have == MISSING))
    for key, column in columns.items():
        owner, _, name = key.rpartition("/")
        if name == "precision_error" or key not in merged or owner != group.rstrip("/"):
            continue
        if name not in (*PROVENANCE, "status"):
            differ_C = np.flatnonzero(both & _differ(name, merged[key], column, tolerance))
            if differ_C.size:
                ours, other = (c.ravel()[differ_C[0]].item() for c in (merged[key], column))
                return (
                    f"{key} of cell {differ_C[0]} is {other!r}, but {ours!r} {where}; "
                    f"{differ_C.size} cells differ"
                )
        merged[key][new] = column[new]
    if not group:
        rows = np.isnan(merged["precision_error"]).all(axis=1)
        merged["precision_error"][rows] = columns["precision_error"][rows]
    return None


def _results(columns: _Columns, group: str) -> set[str]:
    """Return the names of a group's datasets of results."""
    facts = {f"{group}{name}" for name in (*PROVENANCE, "status", "precision_error")}
    return {n for n in columns if n.rpartition("/")[0] == group.rstrip("/")} - facts


def _differ(
    name: str, ours: NDArray[np.generic], theirs: NDArray[np.generic], tolerance: float
) -> NDArray[np.bool_]:
    """Return where two columns differ; not a number is equal to itself.

    Only losses are compared by tolerance: an accuracy jumps by a whole sample, and eigenvalues
    agree as well as their solver was asked to find them.
    """
    if not tolerance:
        return np.asarray(ours.view(np.uint64) != theirs.view(np.uint64))
    if not name.endswith("_loss"):
        return np.zeros(ours.shape, np.bool_)
    return np.asarray(~np.isclose(ours, theirs, rtol=tolerance, atol=0.0, equal_nan=True))
