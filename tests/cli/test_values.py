"""Texts of the command line as values."""

from __future__ import annotations

import argparse

import pytest

from lsengine.cli import values


@pytest.mark.parametrize(
    ("function", "text", "value"),
    [
        (values.count, "1", 1),
        (values.number, "0", 0),
        (values.bins, "10000", 10_000),
        (values.shard, "2/8", (2, 8)),
        (values.workers, "auto", "auto"),
        (values.workers, "3", 3),
        (values.seconds, "0.1", 0.1),
    ],
)
def test_a_text_is_its_value(function, text, value):
    """The least that is allowed is allowed."""
    assert function(text) == value


@pytest.mark.parametrize(
    ("function", "text", "expected"),
    [
        (values.count, "0", "an integer of at least 1"),
        (values.count, "1.5", "an integer of at least 1"),
        (values.bins, "10001", "an integer of 1 to 10,000"),
        (values.number, "-1", "an integer of at least 0"),
        (values.shard, "9/8", "K from 1 to N"),
        (values.shard, "0/8", "K from 1 to N"),
        (values.workers, "many", "1 to 4,096, or auto"),
        (values.workers, "4097", "1 to 4,096, or auto"),
        (values.seconds, "0", "seconds, 0.1 to 86400"),
        (values.seconds, "nan", "seconds, 0.1 to 86400"),
    ],
)
def test_what_is_none_is_refused_with_what_is_allowed(function, text, expected):
    """And with what was found."""
    with pytest.raises(argparse.ArgumentTypeError, match=expected) as refused:
        function(text)
    assert repr(text) in str(refused.value)
