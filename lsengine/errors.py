"""Errors a user can act on; each class owns its exit code.

Anything that is not an `LsengineError` is a bug and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class LsengineError(Exception):
    """Base of all errors whose message tells the user what to do.

    Each argument is a message of its own; further lines of one are indented.
    """

    exit_code = 1

    def __str__(self) -> str:
        return "\n".join(map(str, self.args))


class UsageError(LsengineError):
    """The command line, a checkpoint or a data set is wrong."""

    exit_code = 2


class NothingToDraw(UsageError):
    """A surface has nothing that the picture could show, but may have when more cells are done."""


class JobError(UsageError):
    """A job file is wrong, by every problem found: a line each, starting with the key path."""

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
    """The run reached its end, but some cells failed; the message lists them.

    Attributes:
        surfaces: From functions that return surfaces, those that they would return.
    """

    exit_code = 5
    surfaces: tuple[Any, ...] = ()


class Stopped(LsengineError):
    """The run was asked to stop before its end; the same command goes on with it."""

    exit_code = 75
