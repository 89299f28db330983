"""Log lines, and reports of progress.

A line has the rank first, then the host, then what happened with its values named.
"""

from __future__ import annotations

import logging
import math
import socket
import sys
import time
from typing import Any

log = logging.getLogger(__name__)
NOTICE = 25
"""The level of what a user wants to know of every rank, not only of rank 0."""
_LINE_EVERY_S = 10.0


def configure(rank: int) -> None:
    """Send log lines to standard error.  Rank 0 speaks; others on notices or worse."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(f"r{rank:03d} {socket.gethostname()}"))
    root = logging.getLogger("lsengine")
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO if rank == 0 else NOTICE)
    root.propagate = False


class Progress:
    """Reports how far a long task is: how many of its ``cells`` or other things are done.

    The style is ``bar``, ``lines`` (one every few seconds), ``none``, or ``auto``: a bar on a
    terminal, else lines.  What was ``done`` before this run does not count for the rate.
    """

    def __init__(self, things: str, *, total: int, done: int, style: str) -> None:
        if style == "auto":
            style = "bar" if sys.stderr.isatty() else "lines"
        self._things, self._total, self._done, self._before = things, total, done, done
        self._start = self._last_line = time.monotonic()
        self._has_lines = style == "lines"
        self._bar: Any = None
        if style == "bar":
            from tqdm import tqdm  # not needed by who only reads

            unit = things.removesuffix("s")
            self._bar = tqdm(total=total, initial=done, unit=unit, mininterval=0.5)

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


class _Formatter(logging.Formatter):
    def __init__(self, head: str) -> None:
        super().__init__()
        self._head = head

    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno in (logging.INFO, NOTICE) else f" {record.levelname}"
        return f"{self._head}{level} {record.getMessage()}"
