"""Log lines, and reports of progress.

A line has the rank first, then the host and the time of day there, then what happened with its
values named.  Nothing is coloured.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import math
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lsengine.errors import EnvironmentUnfit
from lsengine.wording import indented, printable

log = logging.getLogger(__name__)
NOTICE = 25
"""The level of what a user wants to know of every rank, not only of rank 0."""
_LINE_EVERY_S = 10.0
_quiet = False  # whether only warnings and errors are wanted
_callers: list[bool] = []  # of functions called from Python: whether each speaks
_about: list[str] = []  # what is being worked on, where there are several things


def say(text: str) -> None:
    """Print a result at once, with characters that a terminal obeys as escapes.

    Raises:
        BrokenPipeError: If nobody reads it any more.
        EnvironmentUnfit: If it cannot be written, as to a file on a full disk.
    """
    say_as_it_is(printable(text))


def say_as_it_is(text: str) -> None:
    """Print as `say` does, but what is for the terminal to obey."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise EnvironmentUnfit(
            f"standard output cannot be written: {error.strerror}; is the disk full?"
        ) from None


def is_quiet() -> bool:
    """Whether only warnings and errors are wanted."""
    return _quiet


def set_quiet(quiet: bool) -> None:
    """Have `configure` leave out all but warnings and errors, or not."""
    global _quiet
    _quiet = quiet


def configure(rank: int, *, speaks: bool = False) -> None:
    """Send log lines to standard error.  Rank 0 speaks; others on notices or worse.

    A rank with work of its own ``speaks``, too.

    Within `callers` nothing happens: who imports a library says where its log lines go.
    """
    if _callers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(f"r{rank:03d} {socket.gethostname()}"))
    root = logging.getLogger("lsengine")
    root.handlers[:] = [handler]
    speaks = speaks or rank == 0
    root.setLevel(logging.WARNING if _quiet else logging.INFO if speaks else NOTICE)
    root.propagate = False


@contextmanager
def about(name: str) -> Iterator[None]:
    """Have log lines and bars within the context begin with a name: what they are about."""
    _about.append(name)
    try:
        yield
    finally:
        _about.pop()


@contextmanager
def callers(*, speaks: bool) -> Iterator[None]:
    """Leave log lines to the caller's logging within the context.

    A caller who has set up none gets warnings and reports of progress on standard error if it
    ``speaks``, and nothing else.
    """
    root = logging.getLogger("lsengine")
    before = root.handlers[:], root.level
    if not root.hasHandlers():
        handler: logging.Handler = logging.NullHandler()
        if speaks:
            handler = logging.StreamHandler(sys.stderr)
            handler.addFilter(lambda r: r.levelno >= logging.WARNING or r.name == __name__)
            root.setLevel(logging.INFO)
        handler.setFormatter(_Formatter("lsengine:", is_plain=True))
        root.addHandler(handler)
    _callers.append(speaks)
    try:
        yield
    finally:
        _callers.pop()
        root.handlers[:] = before[0]
        root.setLevel(before[1])


def default_style() -> str:
    """Return how progress is shown if nobody says it: a bar on a terminal or in a notebook."""
    return "bar" if sys.stderr.isatty() or _is_notebook() else "lines"


def _is_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")


class Progress:
    """Reports how far a long task is: how many of its ``cells`` or other things are done.

    The style is ``bar``, ``lines`` (one every few seconds), ``none``, or ``auto``: a bar on a
    terminal, else lines.  What was ``done`` before this run does not count for the rate.
    """

    def __init__(self, things: str, *, total: int, done: int, style: str) -> None:
        if style == "auto":
            style = default_style()
        self._things, self._total, self._done, self._before = things, total, done, done
        self._start = self._last_line = time.monotonic()
        self._has_lines = style == "lines"
        self._bar: Any = None
        if style == "bar":
            unit = things.removesuffix("s")
            name = _about[-1] if _about else None
            self._bar = _tqdm()(total=total, initial=done, unit=unit, mininterval=0.5, desc=name)

    def advance(self, count: int = 1, values: str = "") -> None:
        """Count things just finished; ``values`` are shown instead of the rate, and at the end."""
        self._done += count
        try:
            self._show(count, values)
        except OSError:
            self._bar, self._has_lines = None, False  # nobody reads it any more; the run goes on

    def close(self) -> None:
        """Finish the bar."""
        if self._bar is not None:
            self._bar.close()

    def _show(self, count: int, values: str) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(values, refresh=False)
            self._bar.update(count)
        now = time.monotonic()
        is_end = bool(values) and self._done == self._total
        if self._has_lines and (is_end or now - self._last_line >= _LINE_EVERY_S):
            self._last_line = now
            rate = (self._done - self._before) / max(now - self._start, 1e-9)
            left_s = (self._total - self._done) / rate if rate else math.inf
            shown, counts = values or f"rate={rate:.3g}/s", f"{self._done}/{self._total}"
            log.info("%s=%s %s eta=%.0fs", self._things, counts, shown, left_s)


def _tqdm() -> Any:
    """Return the bar of a notebook where there is one that can show it, else that of a terminal."""
    # Not needed by who only reads.
    is_shown = _is_notebook() and importlib.util.find_spec("ipywidgets") is not None
    return importlib.import_module("tqdm.auto" if is_shown else "tqdm").tqdm


class _Formatter(logging.Formatter):
    """Lines with a head, the time, and the level of what is no plain news; or with a head alone."""

    def __init__(self, head: str, *, is_plain: bool = False) -> None:
        super().__init__()
        self._head, self._is_plain = head, is_plain

    def format(self, record: logging.LogRecord) -> str:
        begin = [self._head]
        if not self._is_plain:
            begin.append(self.formatTime(record, "%Y-%m-%dT%H:%M:%S"))
            if record.levelno not in (logging.INFO, NOTICE):
                begin.append(record.levelname)
        begin += [f"{name}:" for name in _about[-1:]]
        return indented(" ".join([*begin, record.getMessage()]))
