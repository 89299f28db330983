"""Errors a user can act on; each class owns its exit code.

Anything that is not an `LsengineError` is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class LsengineError(Exception):
    """Base of all errors whose message tells the user what to do."""

    exit_code = 1


class UsageError(LsengineError):
    """The command line, a checkpoint or a data set is wrong."""

    exit_code = 2


class NothingToDraw(UsageError):
    """A surface has nothing that the picture could show, but may have when more cells are done."""


class JobError(UsageError):
    """A job file is wrong.  Carries every problem found, not only the first.

    Args:
        source: The job file as the user named it.
        problems: One line each, starting with the key path.
    """

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        self.source, self.problems = source, tuple(problems)
        super().__init__("\n  ".join([f"{source}: {len(problems)} problem(s)", *problems]))

    def __reduce__(self) -> tuple[type[JobError], tuple[str, tuple[str, ...]]]:
        return type(self), (self.source, self.problems)  # travels between ranks


class EnvironmentUnfit(LsengineError):
    """This machine, launcher or installation cannot do what was asked."""

    exit_code = 3


class SurfaceError(LsengineError):
    """A surface file belongs to another job, is locked, or is damaged."""

    exit_code = 4


class CellsFailed(LsengineError):
    """The run reached its end, but some cells failed; the message lists them."""

    exit_code = 5


class Stopped(LsengineError):
    """The run was asked to stop before its end; the same command goes on with it."""

    exit_code = 75


def did_you_mean(found: object, allowed: Iterable[str]) -> str:
    """Return ``; did you mean "x"?`` for the nearest allowed word, or an empty string.

    Capitals, hyphens and underscores count for little; of two words that are equally near,
    the one that begins like ``found`` is meant.
    """
    wanted, best, meant = _plain(str(found)), (0.6, 0, 0.0), ""
    for word in allowed:
        plain = _plain(word)
        near = difflib.SequenceMatcher(None, plain, wanted).ratio()
        alike = difflib.SequenceMatcher(None, word, str(found)).ratio()
        score = near, _shared_beginning(plain, wanted), alike
        if score > best:
            best, meant = score, word
    return f'; did you mean "{meant}"?' if meant else ""


def _plain(word: str) -> str:
    return word.casefold().replace("_", "").replace("-", "")


def _shared_beginning(one: str, other: str) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
