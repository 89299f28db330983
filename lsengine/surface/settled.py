"""What a job leaves open and may change the last bits of its cells: where and how they are made.

Cells of one job that differ in any of these agree to the tolerance of the precision, and not
bit by bit.  Runs, ranks and shards are all compared by this one list.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lsengine.surface.identity import Difference

SETTLED = ("batch_size", "cells_per_pass", "device_kind", "forward", "threads", "torch_version")


"""Attributes of a surface file, and fields of what a worker says of itself."""


_DEFAULTS = {"cells_per_pass": 1}
_TOLERANCES = {"float64": 1e-10, "float32": 1e-4, "tf32": 1e-2, "float16": 1e-2, "bfloat16": 5e-2}


def disagreements(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[Difference]:
    """Return where two settings differ, of those that both sides know.

    Example:
        >>> [str(d.key) for d in disagreements({"threads": 4, "batch_size": 16}, {"threads": 8})]
        ['threads']
    """
    pairs = {
        name: [side.get(name, _DEFAULTS.get(name)) for side in (ours, theirs)] for name in SETTLED
    }
    return [
        Difference(name, *pair)
        for name, pair in pairs.items()
        if None not in pair and not _agree(name, *pair)
    ]


def _agree(name: str, ours: Any, theirs: Any) -> bool:
    """Whether two values are the same; a bare ``cpu`` of an older file may be any processor."""
    if name == "device_kind" and "cpu" in (ours, theirs):
        return str(ours).startswith("cpu") and str(theirs).startswith("cpu")
    return bool(ours == theirs)


def tolerance(precision: str) -> float:
    """Return how far losses of one cell may lie apart, relative to them, in a precision."""
    return _TOLERANCES[precision]
