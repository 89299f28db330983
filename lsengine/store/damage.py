"""What of a surface file is damaged: what was laid out, by its digest, and cells, by checksums."""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from lsengine.errors import SurfaceError
from lsengine.store import digest, loss_landscape
from lsengine.store.cells import of_grid, of_run
from lsengine.store.checksums import Cells
from lsengine.store.digest import OLD
from lsengine.store.file import FORMAT, opened
from lsengine.store.validation import Content
from lsengine.wording import listed

log = logging.getLogger(__name__)
_LISTED = 8
_CHANGED = "damaged: changed since it was laid out"
_MISFIT = "do not fit their checksums"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a thorough look at a surface file has found.

    Attributes:
        surface: The file.
        has_digest: Whether there is a digest of its layout to compare with.
        layout: What of its structure, attributes and coordinates has changed, in words.
        data: Names of larger datasets, such as directions, that have changed.
        cells: In words; empty if all that are finished are sound.
        finished: How many are done or failed, checkpoints included.
        has_checksums: Whether cells have checksums to compare with.
    """

    surface: str
    has_digest: bool
    layout: tuple[str, ...]
    data: tuple[str, ...]
    cells: str
    finished: int
    has_checksums: bool

    @property
    def is_damaged(self) -> bool:
        """Whether anything has changed that must not."""
        return bool(self.layout or self.data or self.cells)

    def __str__(self) -> str:
        unknown = "no digest to compare with, in files of older versions"
        lines = {"layout": "as it was laid out", "data": "as they were laid out"}
        for name, changed in (("layout", self.layout), ("data", self.data)):
            if changed:
                lines[name] = f"damaged: {listed(changed, most=_LISTED)}"
            elif not self.has_digest:
                lines[name] = unknown
        sound = f"{self.finished:,} finished, all fit their checksums"
        if not self.has_checksums:
            sound = f"{self.finished:,} finished, no checksums to compare with"
        lines["cells"] = f"damaged: {self.cells}" if self.cells else sound
        return "\n".join([f"{self.surface}:", *(f"  {n:<10} {w}" for n, w in lines.items())])


def verify(path: Path) -> Verdict:
    """Look at all of a surface file; also while it is written.

    Raises:
        UsageError: If there is no such file.
        SurfaceError: If it is no surface file, or so damaged that it cannot be read.
    """
    with opened(path, FORMAT) as file:
        layout = _changed(path, file, whole=False)
        found = _cells(file)
        return Verdict(
            surface=str(path),
            has_digest=digest.state(path) is not digest.State.ABSENT,
            layout=tuple(layout),
            data=tuple(name for name in _changed(path, file) if name not in layout),
            cells=words(*found),
            finished=sum(int(np.count_nonzero(of.status)) + len(of.damaged) for of in found if of),
            has_checksums=all(of is None or of.stored is not None for of in found),
        )


def refuse(path: Path, *, cells: bool = True) -> Verdict:
    """Refuse a surface file that is not as it was laid out, or with damaged ``cells``.

    Returns what else was found, and warns once of an older file, which has no digest.

    Raises:
        UsageError: If there is no such file.
        SurfaceError: If it is damaged or no surface file.
    """
    found = verify(path)
    if changed := (*found.layout, *found.data):
        raise SurfaceError(
            f"{path}: {_CHANGED}: {listed(changed, most=_LISTED)}; put a copy in its place, or "
            "move it away and evaluate the job anew"
        )
    if not found.has_digest:
        warn_once(
            f"{path}: has no digest of its layout (of an older version): "
            "damage to its coordinates, directions and attributes would not be noticed"
        )
    if cells and found.cells:
        raise SurfaceError(
            f"{path}: damaged: {found.cells} {_MISFIT}; eval --retry-failed of the job evaluates "
            "them again"
        )
    return found


def cells(path: Path) -> list[NDArray[np.int64]]:
    """Return the flat indices of damaged cells, and of damaged checkpoints if they are cells.

    Files of loss-landscape have no checksums.  Raises like `verify`.
    """
    with opened(path, FORMAT, loss_landscape.FORMAT) as file:
        if loss_landscape.is_one(file):
            return []
        return [of.damaged for of in _cells(file) if of is not None]


def words(grid: Cells, run: Cells | None = None) -> str:
    """Return which cells and which checkpoints are damaged; empty if none is."""
    kinds = (("cells", grid), ("checkpoints", run))
    known = [(kind, of.damaged.tolist()) for kind, of in kinds if of is not None]
    return " and ".join(f"{kind} {listed(of, most=_LISTED)}" for kind, of in known if of)


def warn(path: Path, file: h5py.File, grid: Cells, run: Cells | None = None) -> None:
    """Warn, once, of what is not as it was laid out, and of cells that count as missing."""
    if changed := _changed(path, file, whole=False):
        warn_once(f"{path}: {_CHANGED}: {listed(changed)}")
    if which := words(grid, run):
        warn_once(f"{path}: damaged: {which} {_MISFIT}; taken as missing")


def _changed(path: Path, file: h5py.File, *, whole: bool = True) -> list[str]:
    """Return what has changed since the file was laid out; from version 3 on it has a digest."""
    if digest.state(path) is digest.State.ABSENT and int(file.attrs["format_version"]) > OLD:
        return [digest.NAME]
    return digest.verify(path, whole=whole)


def _cells(file: h5py.File) -> tuple[Cells, Cells | None]:
    content = Content(file, SurfaceError)
    return of_grid(content), of_run(content)


@functools.lru_cache(maxsize=64)
def warn_once(text: str) -> None:
    """Log a warning, and not again while this process remembers it."""
    log.warning("%s", text)
