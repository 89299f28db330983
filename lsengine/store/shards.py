"""Shards of one surface into one file: who belongs together, and what is still missing."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lsengine import job as jobs
from lsengine.errors import CellsFailed, EnvironmentUnfit, Stopped, SurfaceError, UsageError
from lsengine.store import lock, merging
from lsengine.store.reader import read_attributes

log = logging.getLogger(__name__)
_SETTLED = ("batch_size", "cells_per_pass", "device_kind", "torch_version", "threads")


@dataclass(frozen=True, slots=True)
class Merged:
    """What came of a merge.

    Attributes:
        code: 0, 5 if cells failed, 75 if cells are missing.
        text: The same for a person.
    """

    code: int
    text: str


def merge(shards: Sequence[Path], output: Path) -> Merged:
    """Write the finished cells of several files of one surface into one.

    Shards may be partial, may be running, and may have cells in common.  A surface that is at
    ``output`` already is one more shard: no cell of it is lost.

    Raises:
        UsageError: If a shard is missing.
        SurfaceError: If one belongs to another job, has other directions, or other values for a
            cell that two files have; the output stays as it was.
        EnvironmentUnfit: If the disk is full or the folder cannot be written.
    """
    same = [path for path in shards if path.exists() and _is_same_file(path, output)]
    sources = [path for path in shards if path not in same]
    if not sources:
        raise UsageError(f"{output}: is the only shard given; there is nothing to merge")
    read_attributes(sources[0])  # says what is wrong with it before a folder is made
    if output.is_dir():
        raise UsageError(f"{output}: is a directory; expected the name of a file")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentUnfit(f"{output.parent}: cannot be made: {error.strerror}") from None
    with lock.held(output, lost=lambda: None):
        if output.exists():
            sources.append(output)
        first = sources[0]
        attributes = read_attributes(first)
        for path in sources[1:]:
            _refuse_other(path, read_attributes(path), first, attributes)
        counts = merging.merge(sources, output)
    total = counts.done + counts.missing + counts.failed
    text = f"{output}: {counts.done:,} of {total:,} cells done, from {len(sources)} files"
    if counts.failed:
        text += f"; {counts.failed:,} failed: eval --retry-failed tries them again"
    if counts.missing:
        some = ", ".join(map(str, counts.first_missing))
        where = f" (cells {some}, ...)" if some else ""
        text += f"; {counts.missing:,} missing{where}: eval of the job goes on with them"
    code = CellsFailed.exit_code if counts.failed else 0
    return Merged(Stopped.exit_code if counts.missing else code, text)


def _is_same_file(path: Path, output: Path) -> bool:
    return output.exists() and path.samefile(output)


def _refuse_other(
    path: Path, attributes: Mapping[str, Any], first: Path, expected: Mapping[str, Any]
) -> None:
    if attributes.get("fingerprint") != expected.get("fingerprint"):
        raise SurfaceError(
            f"{path}: belongs to another job than {first}: {_why(attributes, expected)}"
        )
    if attributes.get("precision") != expected.get("precision"):
        raise SurfaceError(
            f"{path}: precision is {attributes.get('precision')}, but {expected.get('precision')} "
            f"in {first}; name it in the job, and evaluate the shards anew"
        )
    if differs := merging.difference(first, path):
        raise SurfaceError(f"{path}: is of the same job as {first}, but {differs}")
    for name in _SETTLED:
        if attributes.get(name) != expected.get(name):
            log.warning(
                "%s: %s is %s, %s in %s; their cells agree to the precision's tolerance, not bit "
                "by bit",
                *(path, name, attributes.get(name), expected.get(name), first),
            )


def _why(attributes: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    try:
        ours, theirs = (json.loads(a["identity"]) for a in (attributes, expected))
    except (KeyError, ValueError):
        return "a file does not say which job it is of"
    found = jobs.first_difference(ours, theirs)
    return (
        (found or "of an unknown kind")
        .replace("in the job", "here")
        .replace("in the file", "there")
    )
