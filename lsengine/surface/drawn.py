"""Directions that a surface file does not hold: digests in their place, to know them again by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Digests = dict[str, dict[str, list[str]]]


def digests(directions: Mapping[str, Mapping[str, NDArray[Any]]], *, repeats: bool) -> Digests:
    """Return by axis and parameter the SHA-256 of each repeat's numbers, in row-major order.

    With ``repeats`` the arrays have a leading axis of them.
    """
    return {
        axis: {name: [_digest(a) for a in (v if repeats else [v])] for name, v in of_axis.items()}
        for axis, of_axis in directions.items()
    }


def _digest(values: NDArray[Any]) -> str:
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return hashlib.sha256(little.reshape(-1).view(np.uint8).data).hexdigest()


def difference(ours: Digests, theirs: Digests) -> tuple[str, str] | None:
    """Return axis and parameter of the first difference; of other repeats only common ones count.

    Example:
        >>> difference({"alpha": {"w": ["1f", "2e"]}}, {"alpha": {"w": ["1f"]}})
        >>> difference({"alpha": {"w": ["1f"]}}, {"alpha": {"v": ["1f"]}})
        ('alpha', 'v')
    """
    for axis in sorted(ours.keys() | theirs.keys()):
        left, right = ours.get(axis, {}), theirs.get(axis, {})
        for name in sorted(left.keys() | right.keys()):
            pairs = zip(left.get(name, [""]), right.get(name, [""]), strict=False)
            if any(a != b for a, b in pairs):
                return axis, name
    return None


def text(digests: Digests) -> str:
    """Return digests as a surface file keeps them."""
    return json.dumps(digests, sort_keys=True, separators=(",", ":"))
