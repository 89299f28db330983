"""The watchdog: it ends the processes of the command line, and no others."""

from __future__ import annotations

import contextlib
import math
import signal

import pytest

from lsengine.engine import Options, evaluate
from lsengine.engine.protocol.watchdog import Watchdog


@pytest.fixture
def alarms(monkeypatch):
    """Every alarm that is set, in seconds; none ever rings."""
    seconds = []
    monkeypatch.setattr(signal, "setitimer", lambda _, delay: seconds.append(delay))
    return seconds


def test_a_process_of_python_is_not_ended_unless_it_is_asked_for(make_job, alarms):
    """Evaluating in Python sets no alarm, as a notebook must not die of a slow file system."""
    grid = {"grid": {"alpha": [0, 1, 2]}, "directions": {"alpha": {"kind": "random"}}}
    assert evaluate([make_job("first", **grid)], Options(progress="none"), world=None) == 0
    assert not alarms
    options = Options(progress="none", end_if_hung=True)
    assert evaluate([make_job("second", **grid)], options, world=None) == 0
    assert max(alarms) >= 600
    assert alarms[-1] == 0  # nothing rings after the run


def test_watching_ends_with_the_context(alarms):
    """The alarm is set, and taken back even after an error."""
    with contextlib.suppress(ZeroDivisionError), Watchdog(7.0).watching():
        assert alarms == [7.0]
        raise ZeroDivisionError
    assert alarms == [7.0, 0]


def test_infinite_patience_and_a_callers_alarm_are_left_alone(alarms):
    """SIGALRM with a handler belongs to whoever has set it."""
    Watchdog(math.inf).progress()
    before = signal.signal(signal.SIGALRM, lambda number, frame: None)
    try:
        Watchdog(1.0).progress()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not alarms
