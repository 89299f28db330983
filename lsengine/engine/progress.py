"""How far the run is: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import logging
import sys
import time

from tqdm import tqdm

log = logging.getLogger(__name__)
_INTERVAL_S = 10.0


class Progress:
    """Reports finished cells of one run.

    Args:
        total: Cells of the surface.
        done: Cells done before this run.
        style: ``bar``, ``lines``, ``none``, or ``auto``: a bar on a terminal, else lines.
    """

    def __init__(self, total: int, done: int, style: str) -> None:
        if style == "auto":
            style = "bar" if sys.stderr.isatty() else "lines"
        self._total, self._done, self._before = total, done, done
        self._start = self._last = time.monotonic()
        self._lines = style == "lines"
        self._bar = (
            tqdm(total=total, initial=done, unit="cell", mininterval=0.5)
            if style == "bar"
            else None
        )

    def advance(self, cells: int) -> None:
        """Count cells that have just been finished."""
        self._done += cells
        try:
            self._show(cells)
        except OSError:
            self._bar, self._lines = None, False  # nobody reads it any more; the run goes on

    def _show(self, cells: int) -> None:
        if self._bar is not None:
            self._bar.update(cells)
        if self._lines and time.monotonic() - self._last > _INTERVAL_S:
            self._last = time.monotonic()
            rate = (self._done - self._before) / (self._last - self._start)
            remaining = (self._total - self._done) / rate if rate else float("inf")
            log.info("cells=%d/%d rate=%.3g/s eta=%.0fs", self._done, self._total, rate, remaining)

    def close(self) -> None:
        """Finish the bar."""
        if self._bar is not None:
            self._bar.close()
