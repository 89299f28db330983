"""Which checkpoints match a pattern, found without an endless walk over the disk."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from lsengine.errors import UsageError
from lsengine.job.checkpoint_paths import problem

_MOST_NAMES = 200_000  # that are looked at: seconds on a local disk
_NAMES_PER_FOLDER = 20  # what it costs to see that a folder is no checkpoint
_MAGIC = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class Matches:
    """What matches a pattern, hidden names left out.

    Attributes:
        checkpoints: All files, and the folders that are checkpoints; sorted by name.
        hollow: Why other folders are none.
    """

    checkpoints: list[Path]
    hollow: list[str]


class Search:
    """A search by patterns, which may look at so many names in all.

    One is shared by all jobs of a file.
    """

    def __init__(self) -> None:
        self._left = _MOST_NAMES
        self._known: dict[str, Matches] = {}

    def find(self, key: str, pattern: str) -> Matches:
        """Return what matches an absolute pattern: ``*``, ``?``, ``[...]``, and ``**`` for folders.

        ``**`` does not follow links.

        Raises:
            UsageError: If too many names have to be looked at; it starts with the key.
        """
        if pattern not in self._known:
            try:
                self._known[pattern] = self._found(pattern)
            except UsageError:
                raise UsageError(
                    f"{key}: {pattern}: more than {_MOST_NAMES:,} names would have to be looked "
                    "at; name the folder"
                ) from None
        return self._known[pattern]

    def _found(self, pattern: str) -> Matches:
        matches = Matches([], [])
        for path in sorted(self._walk(pattern)):
            if path.name.startswith("."):
                continue
            if os.path.isfile(path):  # noqa: PTH113  false also where it may not be asked
                matches.checkpoints.append(path)
            elif os.path.isdir(path):  # noqa: PTH112
                self._count(_NAMES_PER_FOLDER)
                if reason := problem(path):
                    matches.hollow.append(reason)
                else:
                    matches.checkpoints.append(path)
        return matches

    def _walk(self, pattern: str) -> Iterator[Path]:
        """Yield each path that matches once."""
        whole = Path(pattern)
        left = [(whole.parent.anchor or "/", whole.parts[1:])]
        seen = set(left)
        while left:
            folder, parts = left.pop()
            self._count(1)
            if not parts:
                yield Path(folder)
            new = [place for place in self._steps(folder, parts) if place not in seen]
            seen.update(new)
            left += new

    def _steps(self, folder: str, parts: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Yield the paths that the first part of a pattern leads to, with what is left of it."""
        if not parts:
            return
        first, *rest = parts
        if first == "**":
            yield folder, (*rest,)
            for entry in self._entries(folder):
                if entry.is_dir(follow_symlinks=False):
                    yield entry.path, parts
        elif _MAGIC.search(first):
            for entry in self._entries(folder):
                if fnmatchcase(entry.name, first):
                    yield entry.path, (*rest,)
        elif os.path.lexists(path := os.path.join(folder, first)):  # noqa: PTH118
            yield path, (*rest,)

    def _entries(self, folder: str) -> Iterator[os.DirEntry[str]]:
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                self._count(1)
                yield entry

    def _count(self, names: int) -> None:
        self._left -= names
        if self._left < 0:
            raise UsageError("too many names")
