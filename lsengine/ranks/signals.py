"""Signals that ask a run to stop."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from lsengine.errors import Stopped


class EarlySignal:
    """A signal handler for the time before a run listens: it remembers what has come."""

    def __init__(self) -> None:
        self.received: str | None = None

    def __call__(self, number: int, _: FrameType | None) -> None:
        """Remember the signal, for the `StopRequest` that takes this handler's place."""
        self.received = signal.Signals(number).name


class StopRequest:
    """Remembers a signal that asks for a clean stop.

    SIGUSR1 (a time limit near), SIGTERM and SIGINT set it; a second SIGINT interrupts at once.
    """

    def __init__(self) -> None:
        self.signal: str | None = None
        self._handlers_before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        """Listen within a context; only the main thread may, in others no signal is heard."""
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
            before = signal.signal(number, self._remember)
            self._handlers_before[number] = before
            if isinstance(before, EarlySignal) and before.received:
                self.request(before.received)
        return self

    def __exit__(self, *_: object) -> None:
        """Give the signals back to whoever had them before."""
        for number, handler in self._handlers_before.items():
            signal.signal(number, handler)

    def request(self, why: str) -> None:
        """Ask for a stop without a signal."""
        self.signal = self.signal or why

    def raise_if_requested(self) -> None:
        """Raise `Stopped` once a stop has been asked for."""
        if self.signal is not None:
            raise Stopped(f"stopped by {self.signal}")

    def __bool__(self) -> bool:
        return self.signal is not None

    def _remember(self, number: int, _: FrameType | None) -> None:
        if self.signal == "SIGINT" and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number).name
