"""Names by which things of one figure or table are told apart."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path


def did_you_mean(found: object, allowed: Iterable[str]) -> str:
    """Return ``; did you mean "x"?`` for the nearest allowed word, or an empty string.

    Capitals, hyphens and underscores count for little; of two words that are equally near,
    the one that begins like ``found`` is meant.
    """
    wanted, best, meant = _plain(str(found)), (0.6, 0, 0.0), ""
    for word in allowed:
        plain = _plain(word)
        near = difflib.SequenceMatcher(None, plain, wanted).ratio()
        alike = difflib.SequenceMatcher(None, word, str(found)).ratio()
        score = near, _shared_beginning(plain, wanted), alike
        if score > best:
            best, meant = score, word
    return f'; did you mean "{meant}"?' if meant else ""


def _plain(word: str) -> str:
    return word.casefold().replace("_", "").replace("-", "")


def _shared_beginning(one: str, other: str) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def distinct(names: Sequence[str], sources: Sequence[str]) -> list[str]:
    """Return the names, those that occur twice with what tells their files apart in parentheses.

    Args:
        names: Of things in one figure.
        sources: The file of each; one file named twice keeps its name.

    Example:
        >>> distinct(["a", "a", "b"], ["run1/s.h5", "run2/s.h5", "b.h5"])
        ['a (run1)', 'a (run2)', 'b']
    """
    made = list(names)
    for name in {n for n in names if names.count(n) > 1}:
        alike = [i for i, n in enumerate(names) if n == name]
        files = list(dict.fromkeys(sources[i] for i in alike))
        if len(files) > 1:
            ends = dict(zip(files, parts_that_differ([Path(f) for f in files]), strict=True))
            for i in alike:
                made[i] = f"{name} ({ends[sources[i]]})"
    return made


def parts_that_differ(paths: Sequence[Path]) -> list[str]:
    """Return the last parts of different paths, without extension, in which they differ."""
    whole = [path.resolve().with_suffix("").parts for path in paths]
    if len(set(whole)) != len(whole):
        whole = [path.resolve().parts for path in paths]
    tail = 1
    while len({parts[-tail:] for parts in whole}) < len(set(whole)):
        tail += 1
    ends = [parts[-tail:] for parts in whole]
    # Files that end alike (epoch_300) are told apart by their folders alone.
    alike = tail > 1 and len({parts[-1] for parts in ends}) == 1
    return ["/".join(parts[:-1] if alike else parts) for parts in ends]
