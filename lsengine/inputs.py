"""From the files a user names to the values that a kind of picture is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from lsengine import history, store
from lsengine.errors import UsageError
from lsengine.records import History, Weights
from lsengine.render import KINDS
from lsengine.surface import Surface

Drawable = Surface | History | Weights

_WORDS = {
    "surface": ("a surface", 'lsengine eval" writes it'),
    "history": ("a training history", 'lsengine train" writes it'),
    "weights": ("a histogram of weights", 'lsengine histogram" writes it'),
}
_FORMATS = {history.FORMAT: "history", history.WEIGHTS_FORMAT: "weights"}


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
        "history": history.read,
        "weights": history.read_weights,
    }
    for path in paths:
        _check(Path(path), f"--as {kind}", wanted)
    return [readers[wanted](Path(path)) for path in paths]


def read_surfaces(paths: Sequence[str]) -> list[Surface]:
    """Read surfaces for a command that takes nothing else; raises like `read`."""
    for path in paths:
        _check(Path(path), "this command", "surface")
    return [store.read(path) for path in paths]


def _check(path: Path, asked: str, wanted: str) -> None:
    """Refuse a readable file of another kind, and say what can be drawn of it."""
    form = history.format_of(path) if path.is_file() else None
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


def _family(made_of: str) -> str:
    return made_of if made_of in _WORDS else "surface"
