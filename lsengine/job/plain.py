"""What every job consists of: plain values, few and shallow enough for all that handles them.

Files and calls from Python are checked alike.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lsengine.wording import control_character, short

FILL_IN = "FILL IN"
MOST_VALUES = 100_000
MOST_LEVELS = 50
_MOST_CHARACTERS = 10_000
_MOST_OF_A_KEY = 200
_BITS = 63
_TEXT = "in quotes it is text"


def problems(content: Any) -> Iterator[str]:
    """Yield what a job's content must not hold, each with its key path.

    A value that holds itself is nested too deeply.

    Example:
        >>> list(problems({"seed": 10**30, "data": {"root": 3}}))
        ['seed: an integer of more than 64 bits']
    """
    left, seen = [("", content, 0)], 1
    while left:
        key, value, level = left.pop()
        if found := _problem(value):
            yield f"{key or 'job'}: {found}"
            continue
        if isinstance(value, str | int | float) or value is None:
            continue
        inner = list(_inner(key, value))
        seen += len(inner)
        if seen > MOST_VALUES:
            yield f"job: has more than {MOST_VALUES:,} values; write fewer, or several files"
            return
        if inner and level == MOST_LEVELS:
            top = key.partition(".")[0].partition("[")[0]
            yield f"{top}: nested too deeply; allowed: at most {MOST_LEVELS} levels"
            return
        left += [(k, v, level + 1) for k, v in reversed(inner)]


def left_open(content: Any, key: str = "") -> Iterator[str]:
    """Yield what content without `problems` still leaves to be filled in, each with its key path.

    Example:
        >>> list(left_open({"data": {"root": "FILL IN"}}))
        ['data.root: says FILL IN; give it a value']
    """
    if isinstance(content, str):
        if FILL_IN in content:
            yield f"{key}: says {FILL_IN}; give it a value"
        return
    for name, value in _inner(key, content):
        yield from left_open(value, name)


def shown(key: object) -> str:
    """Return a key as it is, if it can be printed in a line, else quoted and cut."""
    text = str(key)
    return text if text.isprintable() and len(text) <= _MOST_OF_A_KEY else short(text)


def _inner(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from ((f"{key}.{shown(name)}".lstrip("."), inner) for name, inner in value.items())
    elif isinstance(value, Sequence):
        yield from ((f"{key}[{place}]", inner) for place, inner in enumerate(value))


def _problem(value: Any) -> str:
    """Return what is wrong with a value by itself, empty if nothing is."""
    if value is None or isinstance(value, float | list | tuple):
        return ""
    if isinstance(value, str):
        return _problem_of_text(value, _MOST_CHARACTERS)
    if isinstance(value, int):
        return "an integer of more than 64 bits" if value.bit_length() > _BITS else ""
    if isinstance(value, Mapping):
        odd = next((key for key in value if not isinstance(key, str)), None)
        if odd is not None or None in value:
            return f"the key {shown(odd)} is no text; {_TEXT}"
        found = ((key, _problem_of_text(key, _MOST_OF_A_KEY)) for key in value)
        return next((f"the key {shown(key)} {said}" for key, said in found if said), "")
    return f"is of type {type(value).__name__}: {short(value)}; {_TEXT}"


def _problem_of_text(text: str, most: int) -> str:
    if len(text) > most:
        return f"has {len(text):,} characters; allowed: at most {most:,}"
    found = control_character(text, allowed="\t\n\r")
    return f"holds the control character {json.dumps(found)}" if found else ""
