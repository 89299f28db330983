"""A watchdog that ends a process which makes no progress, whatever it hangs in.

A kernel that never returns and a file system that has gone away hold Python's own threads
up, too, so nothing of this is Python: the system's timer sends SIGALRM, `faulthandler`
writes where every thread hangs, and the signal then ends the process.  By a signal, because
a launcher that outlives dead ranks still takes an exit code for the end of all.
"""

from __future__ import annotations

import contextlib
import faulthandler
import math
import signal
import sys
import time
from collections.abc import Iterator

_MULTIPLE = 20  # of the longest pause seen is no hang yet


class Watchdog:
    """Ends this process after a silence; never one that uses SIGALRM for something else.

    ``patience_s`` is the shortest silence that counts; longer where pauses are long anyway.
    Infinite, the process is never ended.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s, self._longest_s = patience_s, 0.0
        self._last: float | None = None
        self._set = 0.0
        # A caller's alarm is the caller's.  `faulthandler` needs a file of the system's.
        is_free = signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
        self._watches = is_free and math.isfinite(patience_s)
        if self._watches and sys.__stderr__ is not None:
            faulthandler.register(signal.SIGALRM, sys.__stderr__, all_threads=True, chain=True)

    def progress(self) -> None:
        """Say that there is progress; begin to watch at the first call."""
        now = time.monotonic()
        if self._last is not None:
            self._longest_s = max(self._longest_s, now - self._last)
            if now - self._set < self._patience_s / 20:
                self._last = now
                return
        self._last = self._set = now
        self._alarm_in(max(self._patience_s, _MULTIPLE * self._longest_s))

    def pause(self) -> None:
        """Stop watching, until there is progress again."""
        self._last = None
        self._alarm_in(0)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch within the context, and pause after it."""
        self.progress()
        try:
            yield
        finally:
            self.pause()

    def _alarm_in(self, seconds: float) -> None:
        if self._watches:
            signal.setitimer(signal.ITIMER_REAL, seconds)
