"""How lists, tables, times and names are put into words."""

from __future__ import annotations

import difflib
import itertools
import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

_LONGEST_WORD = 100
# Also what turns the direction of the text behind it: another name would be shown than there is.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def did_you_mean(found: object, allowed: Iterable[str]) -> str:
    """Return ``; did you mean "x"?`` for the nearest allowed word, or an empty string.

    Capitals, hyphens and underscores count for little; of two words that are equally near,
    the one that begins like ``found`` is meant.
    """
    if len(str(found)) > _LONGEST_WORD:  # is no slip of the keyboard
        return ""
    wanted, best, meant = _plain(str(found)), (0.6, 0, 0.0), ""
    for word in allowed:
        plain = _plain(word)
        near = difflib.SequenceMatcher(None, plain, wanted).ratio()
        alike = difflib.SequenceMatcher(None, word, str(found)).ratio()
        pairs = zip(plain, wanted, strict=False)
        shared = list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        score = near, len(shared), alike
        if score > best:
            best, meant = score, word
    return f'; did you mean "{meant}"?' if meant else ""


def _plain(word: str) -> str:
    return word.casefold().replace("_", "").replace("-", "")


def short(value: Any) -> str:
    """Return a value as a user would write it, cut to 60 characters."""
    try:
        text = repr(value) if isinstance(value, float) else json.dumps(value, default=str)
    except (TypeError, ValueError, RecursionError):  # from Python, or as a key of YAML's
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."


def control_character(text: str, allowed: str = "") -> str:
    """Return the first character that is none of a line of text and not ``allowed``, or nothing.

    These are control characters, what ends a line, and what stands for a byte that is no text.
    """
    return next((match[0] for match in _CONTROL.finditer(text) if match[0] not in allowed), "")


def printable(text: str) -> str:
    r"""Return a text without characters that a terminal obeys: they become escapes.

    Ends of lines and tabs stay.

    Example:
        >>> printable("a\x1b[2Jb\n")
        'a\\x1b[2Jb\n'
    """
    return _CONTROL.sub(lambda m: m[0] if m[0] in "\t\n" else ascii(m[0])[1:-1], text)


def one_line(text: str) -> str:
    r"""Return a text as `printable` does, with ends of lines and tabs as escapes, too.

    Example:
        >>> one_line("a\nb\x07")
        'a\\nb\\x07'
    """
    return _CONTROL.sub(lambda m: ascii(m[0])[1:-1], text)


def indented(text: str) -> str:
    r"""Return a text as `printable` does; all lines but the first are indented.

    So no name with an end of line in it looks like a message of its own.

    Example:
        >>> indented("a\nb\n  c")
        'a\n  b\n  c'
    """
    return re.sub(r"\n(?!  |\n|\Z)", "\n  ", printable(text))


def listed(things: Iterable[object], most: int = 5, separator: str = ", ") -> str:
    """Return things in one line, and how many more there are.

    Example:
        >>> listed(["a", "b", "c"], most=2)
        'a, b and 1 more'
    """
    words = [str(thing) for thing in things]
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return separator.join(words[:most]) + more


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows with their columns aligned: the first to the left, the others to the right.

    Example:
        >>> print(table([["name", "loss"], ["resnet20", "0.1"]]))
        name      loss
        resnet20   0.1
    """
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [cell.rjust(w) for cell, w in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """Return a time for people, in the unit that suits it.

    Example:
        >>> duration(42), duration(600), duration(10_000)
        ('42 s', '10 min', '2.8 h')
    """
    if seconds < 120:
        return f"{max(1, round(seconds))} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def distinct(names: Sequence[str], sources: Sequence[str]) -> list[str]:
    """Return the names, those that occur twice with what tells their files apart in parentheses.

    One file named twice keeps its name.

    Example:
        >>> distinct(["a", "a", "b"], ["run1/s.h5", "run2/s.h5", "b.h5"])
        ['a (run1)', 'a (run2)', 'b']
    """
    told_apart = list(names)
    for name in set(names):
        alike = [i for i, n in enumerate(names) if n == name]
        files = list(dict.fromkeys(sources[i] for i in alike))
        if len(files) > 1:
            ends = dict(zip(files, parts_that_differ([Path(f) for f in files]), strict=True))
            for i in alike:
                told_apart[i] = f"{name} ({ends[sources[i]]})"
    return told_apart


def parts_that_differ(paths: Sequence[Path]) -> list[str]:
    """Return the last parts of different paths, without extension, in which they differ."""
    found = [Path(os.path.realpath(path)) for path in paths]  # unlike `resolve`, of circles, too
    whole = [(path.parent / path.stem).parts for path in found]
    if len(set(whole)) != len(whole):
        whole = [path.parts for path in found]
    tail = 1
    while len({parts[-tail:] for parts in whole}) < len(set(whole)):
        tail += 1
    ends = [parts[-tail:] for parts in whole]
    # Files that end alike (epoch_300) are told apart by their folders alone.
    alike = tail > 1 and len({parts[-1] for parts in ends}) == 1
    return ["/".join(parts[:-1] if alike else parts) for parts in ends]
