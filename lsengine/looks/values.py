"""Which values an option of a picture takes, and how what was written becomes one."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from lsengine.wording import control_character, did_you_mean

Check = Callable[[Any], str]  # returns what is allowed if a value is not, else nothing
SCALES = ("auto", "linear", "log", "quantile")
LONGEST, MOST_LINES = 1000, 20  # characters and lines of a text
MOST_LEVELS = 100
LETTERS = re.compile(r"[^\w\s$]?([a-zA-Z])[^\w\s$]?")  # of panels: "(a)", "b.", "C"
# Places of a legend: outside the panel, or in it, as matplotlib calls them.
PLACES = (
    "below",
    "right",
    "none",
    "best",
    "upper left",
    "upper right",
    "lower left",
    "lower right",
)


def number(low: float, high: float, *, whole: bool = False) -> Check:
    """Return a check that a value is a number between two others, both allowed."""

    def check(value: Any) -> str:
        kinds = int if whole else (int, float)
        right = isinstance(value, kinds) and not isinstance(value, bool)
        if right and math.isfinite(value) and low <= value <= high:
            return ""
        return f"{'an integer' if whole else 'a number'} from {low:g} to {high:g}"

    return check


def one_of(*allowed: str) -> Check:
    """Return a check that a value is one of some words."""

    def check(value: Any) -> str:
        return "" if value in allowed else ", ".join(allowed) + did_you_mean(value, allowed)

    return check


def limits(value: Any) -> str:
    """Check that a value is a lower and a higher number."""
    if isinstance(value, list | tuple) and len(value) == 2:
        is_number = number(-1e300, 1e300)
        if not any(map(is_number, value)) and value[0] < value[1]:
            return ""
    return "two numbers, the lower first: [0.01, 10]"


def levels(value: Any) -> str:
    """Check that a value is a number of levels, or the levels themselves."""
    if isinstance(value, list | tuple) and 2 <= len(value) <= MOST_LEVELS:
        is_number = number(-1e300, 1e300)
        if not any(map(is_number, value)) and all(a < b for a, b in pairwise(value)):
            return ""
    if not number(2, MOST_LEVELS, whole=True)(value):
        return ""
    return f"an integer from 2 to {MOST_LEVELS}, or that many increasing numbers: [0.1, 1, 10]"


def read_levels(written: str) -> int | tuple[float, ...] | str:
    """Return a number of levels, or the levels, as typed; the text itself if it is neither."""
    try:
        if "," in written:
            return tuple(map(float, written.split(",")))
        return int(written)
    except ValueError:
        return written


def text(value: Any) -> str:
    """Check that a value can be written on a page."""
    fits = isinstance(value, str) and len(value) <= LONGEST and value.count("\n") < MOST_LINES
    if fits and not control_character(value, "\n"):
        return ""
    return (
        f"a text of at most {LONGEST:,} characters and {MOST_LINES} lines, none of the characters "
        "a control character"
    )


def texts(value: Any) -> str:
    """Check that a value is a list of texts."""
    if isinstance(value, list | tuple) and not any(map(text, value)):
        return ""
    return "a list of texts, one for each surface"


def letters(value: Any) -> str:
    """Check that a value is a letter, or one in brackets."""
    if isinstance(value, str) and (not value or LETTERS.fullmatch(value)):
        return ""
    return "the first panel's letter, such as a, (a) or B."


def any_word(value: Any) -> str:
    """Check that a value is a word; what it may be is said elsewhere."""
    return "" if isinstance(value, str) else "a word"
