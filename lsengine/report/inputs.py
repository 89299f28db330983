"""From the files a user names to the values that a kind of picture is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lsengine import store
from lsengine.errors import LsengineError, UsageError
from lsengine.files import is_regular
from lsengine.render import KINDS
from lsengine.surface import Surface, cells
from lsengine.surface.quantities import describe, preferred
from lsengine.surface.records import History, WeightHistograms
from lsengine.wording import listed

Drawable = Surface | History | WeightHistograms


@dataclass(frozen=True, slots=True)
class _Source:
    """One kind of file that pictures are made of: what it is, who writes it, its reader."""

    words: str
    command: str
    read: Callable[[Path], Drawable]


_SOURCES = {
    "surface": _Source("a surface", "eval", store.read),
    "history": _Source("a training history", "train", store.read_history),
    "weights": _Source("a histogram of weights", "histogram", store.read_histograms),
}
_FORMATS = {store.HISTORY_FORMAT: "history", store.WEIGHTS_FORMAT: "weights"}


def is_job_file(path: str | Path) -> bool:
    """Whether the name of a file is that of a job.  The content is not read."""
    return Path(path).suffix in (".yaml", ".yml")


def read(paths: Sequence[str], kind: str) -> list[Drawable]:
    """Read files for a kind of picture, a key of `KINDS`; for an unknown one surfaces.

    Raises:
        UsageError: If a file is missing, or of a kind that the picture cannot be made of.
        SurfaceError: If a surface is damaged.
    """
    wanted = _source_of(KINDS.get(kind, "plane"))
    for path in paths:
        _check(Path(path), f"--as {kind}", wanted)
    return [_SOURCES[wanted].read(Path(path)) for path in paths]


def kind_of(path: str, style: str, *, growing: bool = False) -> str:
    """Return the kind of picture that a file asks for by itself, a key of `KINDS`.

    A file that is not there, or cannot be read, counts as a plane: whoever reads it says what is
    wrong.  With style ``lit`` a plane is a landscape.  One with nothing to join is a heat map,
    unless it is still ``growing``.
    """
    plane = "surface" if style == "lit" else "filled"
    if not is_regular(Path(path), expected="a surface file"):
        return plane
    form = store.format_of(Path(path))
    if form in _FORMATS:
        return "history" if _FORMATS[form] == "history" else "histogram"
    try:
        return kind_of_surface(store.read(path), style, growing=growing)
    except (LsengineError, ValueError):
        return plane


def kind_of_surface(surface: Surface, style: str, *, growing: bool = False) -> str:
    """Return the kind of picture that suits a surface; see `kind_of`."""
    plane = "surface" if style == "lit" else "filled"
    if not surface.is_plane:
        return "curve"
    try:
        drawn = cells.joined(cells.plane(surface, describe(preferred(surface.quantities))))
    except (LsengineError, ValueError):
        return plane
    joins = drawn.joins if plane == "filled" else drawn.has_square
    return plane if joins or (growing and min(surface.status.shape) > 1) else "heatmap"


def read_surfaces(paths: Sequence[str]) -> list[Surface]:
    """Read surfaces for a command that takes nothing else; raises like `read`."""
    for path in paths:
        _check(Path(path), "this command", "surface")
    return [store.read(path) for path in paths]


def _check(path: Path, asked: str, wanted: str) -> None:
    """Refuse a readable file of another kind, and say what can be drawn of it."""
    needed = _SOURCES[wanted]
    if is_job_file(path) and is_regular(path):
        outputs = _outputs(path, wanted)
        raise UsageError(f"{path}: is a job file; {asked} needs {needed.words}{outputs}")
    form = store.format_of(path) if is_regular(path) else None
    if form is None:
        return  # missing, damaged, foreign: the reader says what
    kind = _FORMATS.get(form, "surface")
    if kind != wanted:
        pictures = [k for k, made_of in KINDS.items() if _source_of(made_of) == kind]
        raise UsageError(
            f"{path}: is {_SOURCES[kind].words}, which --as {' or '.join(pictures)} draws; {asked} "
            f'needs {needed.words} ("lsengine {needed.command}" writes it)'
        )


def _outputs(path: Path, wanted: str) -> str:
    """Return which files of the wanted kind a job makes, as the end of a sentence."""
    from lsengine import job as job_files  # its checks are not for every picture to wait for

    try:
        jobs = job_files.load_all(path)
    except LsengineError:
        return ""  # a broken job is not what was asked about
    files: list[Path] = []
    if wanted == "surface":
        files = [job.output for job in jobs]
    elif wanted == "history":
        folders = [job.path(job.document.train.output) for job in jobs if job.document.train]
        files = [folder / "history.h5" for folder in folders]
    existing = [file for file in files if is_regular(file)]
    here = Path.cwd()  # paths as one would type them
    shown = [f.relative_to(here) if f.is_relative_to(here) else f for f in existing or files]
    names = listed(dict.fromkeys(shown), most=3)
    command = _SOURCES[wanted].command
    end = "" if existing else f', which "lsengine {command} {path}" will make'
    return f": {names}{end}" if files else ""


def _source_of(made_of: str) -> str:
    return made_of if made_of in _SOURCES else "surface"
