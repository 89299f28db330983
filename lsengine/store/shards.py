"""Shards of one surface made into one file: which belong together, and what is still missing."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lsengine import files
from lsengine.errors import CellsFailed, Stopped, SurfaceError, UsageError
from lsengine.store import lock, merging
from lsengine.store.reader import read_attributes
from lsengine.surface.identity import first_difference, read_identity
from lsengine.surface.settled import disagreements, tolerance
from lsengine.wording import listed

log = logging.getLogger(__name__)


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
    exists = output.exists()
    sources = [p for p in shards if not (exists and p.exists() and p.samefile(output))]
    if not sources:
        raise UsageError(f"{output}: is the only shard given; there is nothing to merge")
    read_attributes(sources[0])  # says what is wrong with it before a folder is made
    if output.is_dir():
        raise UsageError(f"{output}: is a directory; expected the name of a file")
    files.make_folder(output.parent)
    with lock.held(output, lost=lambda: None):
        if output.exists():
            sources.append(output)
        counts = merging.merge(sources, output, _tolerance(sources))
    total = counts.done + counts.missing + counts.failed
    text = f"{output}: {counts.done:,} of {total:,} cells done, from {len(sources)} files"
    if counts.failed:
        text += f"; {counts.failed:,} failed: eval --retry-failed tries them again"
    if counts.missing:
        cells = f" (cells {listed(counts.missing_cells)})" if counts.missing_cells else ""
        text += f"; {counts.missing:,} missing{cells}: eval of the job goes on with them"
    code = CellsFailed.exit_code if counts.failed else 0
    return Merged(Stopped.exit_code if counts.missing else code, text)


def _tolerance(sources: Sequence[Path]) -> float:
    """Return how far common cells may differ: not at all if all files were made alike.

    Raises:
        SurfaceError: If one is of another job or has other directions.
    """
    first, *others = sources
    expected, allowed = read_attributes(first), 0.0
    for path in others:
        attributes = read_attributes(path)
        _refuse_other(path, attributes, first, expected)
        for difference in disagreements(attributes, expected):
            allowed = tolerance(str(expected["precision"]))
            log.warning(
                "%s: %s; cells agree to the precision's tolerance, not bit by bit, and where two "
                "files have one, the losses may differ by %g of their value",
                *(path, difference.words("here", f"in {first}"), allowed),
            )
    return allowed


def _refuse_other(
    path: Path, attributes: Mapping[str, Any], first: Path, expected: Mapping[str, Any]
) -> None:
    if attributes.get("fingerprint") != expected.get("fingerprint"):
        ours, theirs = read_identity(attributes), read_identity(expected)
        why = "a file does not say which job it is of"
        if ours is not None and theirs is not None:
            difference = first_difference(ours, theirs)
            why = difference.words("here", "there") if difference else "of an unknown kind"
        raise SurfaceError(f"{path}: belongs to another job than {first}: {why}")
    if attributes.get("precision") != expected.get("precision"):
        raise SurfaceError(
            f"{path}: precision is {attributes.get('precision')}, but {expected.get('precision')} "
            f"in {first}; name it in the job, and evaluate the shards anew"
        )
    if differs := merging.difference(first, path):
        raise SurfaceError(f"{path}: is of the same job as {first}, but {differs}")
