"""What a rank finds where it is."""

from __future__ import annotations

from lsengine.doctor.probe import try_device, within


def test_what_takes_too_long_is_left_behind():
    """A check that hangs gives its place to another answer; one that works gives its own."""
    import threading

    assert within(0.05, threading.Event().wait, otherwise=False) is False
    assert within(60, lambda: 3, 0) == 3


def test_the_device_is_really_used():
    """The CPU multiplies without a mistake, and a card that is not there cannot."""
    assert try_device(None, 1) == ""
    assert try_device(63, 1) != ""
