"""Signals that ask a run to stop."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

_early: list[str] = []


def remember_early_signal(number: int, frame: FrameType | None) -> None:
    """Note a signal that arrives before a run listens for it."""
    del frame
    _early.append(signal.Signals(number).name)


class StopRequest:
    """Remembers a signal that asks for a clean stop.

    SIGUSR1 (a time limit near), SIGTERM and SIGINT set it; a second SIGINT interrupts at once.
    """

    def __init__(self) -> None:
        self.signal: str | None = None
        self._before: dict[int, Any] = {}

    def install(self) -> StopRequest:
        """Start listening; call from the main thread."""
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._remember)
        if _early:
            self.request(_early[0])
        return self

    def uninstall(self) -> None:
        """Give the signals back to whoever had them before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def request(self, why: str) -> None:
        """Ask for a stop without a signal."""
        self.signal = self.signal or why

    def __bool__(self) -> bool:
        return self.signal is not None

    def _remember(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.signal == "SIGINT" and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number).name
