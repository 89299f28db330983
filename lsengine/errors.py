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
    """Return ``; did you mean "x"?`` for the nearest allowed word, or an empty string."""
    near = difflib.get_close_matches(str(found), list(allowed), n=1, cutoff=0.6)
    return f'; did you mean "{near[0]}"?' if near else ""
