"""Names by which things of one figure or table are told apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


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
