"""From the files a user names to the values that a kind of picture is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from lsengine import store
from lsengine.errors import LsengineError, UsageError
from lsengine.render import KINDS
from lsengine.store import records
from lsengine.surface import Surface, cells
from lsengine.surface.quantities import describe, preferred
from lsengine.surface.records import History, WeightHistograms

Drawable = Surface | History | WeightHistograms
_WORDS = {
    "surface": ("a surface", 'lsengine eval" writes it'),
    "history": ("a training history", 'lsengine train" writes it'),
    "weights": ("a histogram of weights", 'lsengine histogram" writes it'),
}
_FORMATS = {records.FORMAT: "history", records.WEIGHTS_FORMAT: "weights"}


def read(paths: Sequence[str], kind: str) -> list[Drawable]:
    """Read files for one kind of picture.

    Args:
        paths: Files.
        kind: A key of `KINDS`; of an unknown one files are read as surfaces.

    Raises:
        UsageError: If a file is missing, or of a kind that the picture cannot be made of.
        SurfaceError: If a surface is damaged.
    """
    made_of = KINDS.get(kind, "plane")
    wanted = made_of if made_of in _WORDS else "surface"
    readers: dict[str, Callable[[Path], Drawable]] = {
        "surface": store.read,
        "history": records.read,
        "weights": records.read_weights,
    }
    for path in paths:
        _check(Path(path), f"--as {kind}", wanted)
    return [readers[wanted](Path(path)) for path in paths]


def kind_of(path: str, style: str, *, growing: bool = False) -> str:
    """Return the kind of picture that a file asks for by itself, a key of `KINDS`.

    Args:
        path: A file; one that is not there, or cannot be read, counts as a plane: whoever reads
            it says what is wrong.
        style: As given to `lsengine.render.figure`; ``lit`` is of landscapes.
        growing: Whether cells are still to come: a plane with nothing to join yet is a heat map
            only if none do.
    """
    plane = "surface" if style == "lit" else "filled"
    if not Path(path).is_file():
        return plane
    form = records.format_of(Path(path))
    if form in _FORMATS:
        return "history" if _FORMATS[form] == "history" else "histogram"
    try:
        surface = store.read(path)
        if not surface.is_plane:
            return "curve"
        drawn = cells.joined(cells.plane(surface, describe(preferred(surface.quantities))))
        joins = drawn.joins if plane == "filled" else drawn.has_square
        return plane if joins or (growing and min(surface.status.shape) > 1) else "heatmap"
    except (LsengineError, ValueError):
        return plane


def read_surfaces(paths: Sequence[str]) -> list[Surface]:
    """Read surfaces for a command that takes nothing else; raises like `read`."""
    for path in paths:
        _check(Path(path), "this command", "surface")
    return [store.read(path) for path in paths]


def _check(path: Path, asked: str, wanted: str) -> None:
    """Refuse a readable file of another kind, and say what can be drawn of it."""
    if path.suffix in (".yaml", ".yml") and path.is_file():
        what, _ = _WORDS[wanted]
        raise UsageError(f"{path}: is a job file; {asked} needs {what}{_made_by(path, wanted)}")
    form = records.format_of(path) if path.is_file() else None
    if form is None:
        return  # missing, damaged, foreign: the reader says what
    found = _FORMATS.get(form, "surface")
    if found == wanted:
        return
    allowed = [k for k, made_of in KINDS.items() if _family(made_of) == found]
    what, source = _WORDS[wanted]
    raise UsageError(
        f"{path}: is {_WORDS[found][0]}, which --as {' or '.join(allowed)} draws; "
        f'{asked} needs {what} ("{source})'
    )


def _made_by(path: Path, wanted: str) -> str:
    """Return which files of the wanted kind a job makes, as the end of a sentence."""
    from lsengine import job as jobs  # its checks are not for every picture to wait for

    try:
        found = jobs.load_all(path)
    except LsengineError:
        return ""  # a broken job is not what was asked about
    if wanted == "surface":
        files = [job.output for job in found]
    else:
        files = [job.path(j.output) / "history.h5" for job in found if (j := job.document.train)]
    if wanted == "weights" or not files:
        return ""
    files = list(dict.fromkeys(files))
    there = [file for file in files if file.is_file()]
    listed = ", ".join(_shown(file) for file in (there or files)[:3])
    more = f" and {len(there or files) - 3} more" if len(there or files) > 3 else ""
    command = {"surface": "eval", "history": "train"}[wanted]
    none = "" if there else f', which "lsengine {command} {path}" will make'
    return f": {listed}{more}{none}"


def _shown(file: Path) -> str:
    """Return a path as one would type it here."""
    return str(file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file)


def _family(made_of: str) -> str:
    return made_of if made_of in _WORDS else "surface"
