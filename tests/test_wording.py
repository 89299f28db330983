"""Lists in one line."""

from __future__ import annotations

from lsengine.wording import listed


def test_things_are_named_up_to_a_number():
    """A log line shows the first few cells and how many more."""
    assert listed([1, 2]) == "1, 2"
    assert listed(range(20), most=3) == "0, 1, 2 and 17 more"
