"""Signals that ask a run to stop."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from lsengine.errors import Stopped


class Interrupted(KeyboardInterrupt):
    """SIGTERM has come, and the command ends as after Ctrl-C."""


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the command within the context at once, by `Interrupted`.

    A `StopRequest` within it stops more gently.  Only the main thread of a process may listen.
    """
    owner = os.getpid()

    def end(number: int, _: FrameType | None) -> None:
        if os.getpid() != owner:  # a child that has been forked does as if nobody listened
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        raise Interrupted(signal.Signals(number).name)

    is_ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL  # not that of a program around it
    )
    if is_ours:
        signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        if is_ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def fatal_signals() -> Iterator[None]:
    """Let SIGTERM and SIGINT end the process within the context, where Python hears nothing."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            before[number] = signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
        self._is_sudden = False
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

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Raise `Stopped` as soon as a signal comes within the context, wherever that is.

        For what does not look whether it shall stop, and leaves nothing behind: reading a job,
        importing a library.
        """
        self.raise_if_requested()
        self._is_sudden = True
        try:
            yield
        finally:
            self._is_sudden = False
        self.raise_if_requested()

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
        if self._is_sudden:
            self.raise_if_requested()
