"""What the command line itself says: once, also where several ranks are started."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from lsengine import ranks


class Parser(argparse.ArgumentParser):
    """A parser that speaks once where several ranks do one command together: on rank 0."""

    is_of_all_ranks = True

    def _print_message(self, message: str, file: Any = None) -> None:
        if not self._is_spoken_for():
            super()._print_message(message, file)

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """End, on rank 0 with a message and after the others."""
        if message:
            self._print_message(message + ranks.hint_for(status), sys.stderr)
        if self.is_of_all_ranks:
            ranks.leave_last(status)
        super().exit(0 if self._is_spoken_for() else status)

    def _is_spoken_for(self) -> bool:
        return self.is_of_all_ranks and ranks.launched_rank() > 0


class Told(argparse.Action):
    """An option that prints something, which is looked for only then, and ends."""

    def __init__(
        self, option_strings: list[str], dest: str, *, tell: Callable[[], None], help: str
    ) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)
        self._tell = tell

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Print it, and end."""
        self._tell()
        parser.exit()
