"""What no job may hold, wherever its values come from."""

from __future__ import annotations

import datetime
import time

import pytest

from lsengine.job import plain


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"batch_size": 10**22}, "batch_size: an integer of more than 64 bits"),
        ({"model": {"args": {"x": [1, -(2**63) - 1]}}}, "model.args.x[1]: an integer of more"),
        ({"output": "a\0b"}, 'output: holds the control character "\\u0000"'),
        ({"name": "\x1b[31m"}, 'name: holds the control character "\\u001b"'),
        ({"name": "a\u2028b"}, 'name: holds the control character "\\u2028"'),
        ({"name": "\x9b31m"}, 'name: holds the control character "\\u009b"'),
        ({"name": "\ud800"}, 'name: holds the control character "\\ud800"'),
        ({"name": "x" * 10_001}, "name: has 10,001 characters; allowed: at most 10,000"),
        ({"name": datetime.date(2001, 1, 2)}, 'name: is of type date: "2001-01-02"; in quotes'),
        ({"name": b"x"}, "name: is of type bytes"),
        ({"data": {"args": {1: 2}}}, "data.args: the key 1 is no text; in quotes it is text"),
        ({None: 1}, "job: the key None is no text"),
        ({"x" * 201: 1}, "job: the key"),
        ({"a\nb": {"c\x07": 1}}, '"a\\nb": the key "c\\u0007" holds the control character'),
    ],
)
def test_what_is_no_plain_value_is_named(content, says):
    """One line, with the key path, that can be printed."""
    (problem,) = plain.problems(content)
    assert problem.startswith(says)
    assert problem.isprintable()


def test_what_jobs_hold_is_plain():
    """Numbers, texts of several lines and in any script, lists, tuples and sections."""
    content = {"a": [1, -(2**63) + 1, 2.5, float("nan"), None, True], "b": {"c": ("å\n\tß", "")}}
    assert not list(plain.problems(content))


def test_depth_has_its_limit():
    """As many levels as allowed pass; one more does not, nor does a value that holds itself."""
    deep: list = []
    for _ in range(plain.MOST_LEVELS - 1):
        deep = [deep]
    assert not list(plain.problems({"args": deep}))
    assert next(plain.problems({"args": [deep, 1]})).startswith("args: nested too deeply")
    circle: dict = {}
    circle |= {"a": circle, "b": circle}
    begin = time.process_time()
    assert "nested too deeply" in next(plain.problems(circle))
    assert time.process_time() - begin < 5


def test_numbers_of_values_have_their_limit():
    """Counted before they are looked at."""
    assert not list(plain.problems({"a": [0] * (plain.MOST_VALUES - 2)}))
    (problem,) = plain.problems({"a": [0] * plain.MOST_VALUES})
    assert problem == "job: has more than 100,000 values; write fewer, or several files"
