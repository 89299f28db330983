"""What the command line itself says: once, also where several ranks are started."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from lsengine import ranks
from lsengine.wording import did_you_mean, one_line


class Parser(argparse.ArgumentParser):
    """A parser that speaks once where several ranks do one command together: on rank 0."""

    is_of_all_ranks = True

    def parse_known_args(self, *arguments: Any, **more: Any) -> Any:
        """Parse, and refuse with this command's usage what it does not know."""
        parsed, unknown = super().parse_known_args(*arguments, **more)
        if unknown:
            options = self._option_string_actions
            hints = (did_you_mean(u.partition("=")[0], options) for u in unknown if u[0] == "-")
            hint = next(filter(None, hints), "")
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return parsed, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            hint = did_you_mean(value, action.choices or ())
            raise argparse.ArgumentError(action, error.message + hint) from None

    def _print_message(self, message: str, file: Any = None) -> None:
        if not self._is_spoken_for():
            super()._print_message(message, file)

    def error(self, message: str) -> NoReturn:
        """Refuse the command line with one line, whatever is in it."""
        super().error(one_line(message))

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
