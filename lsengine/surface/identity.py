"""What decides the values of a surface: fingerprints, and where two identities differ.

An identity is a mapping of plain JSON values; `lsengine.job.Job.identity` makes it, and a surface
file has it as its attribute ``identity``.

What a job leaves open may change the last bits of its cells: where and how they are made.  Cells
of one job that differ in any of `SETTLED` agree to the tolerance of the precision, and not bit by
bit.  Runs, ranks and shards are all compared by this one list.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lsengine.wording import short

SETTLED = (
    "batch_size",
    "cells_per_pass",
    "device_kind",
    "forward",
    "products_by",
    "threads",
    "torch_version",
)
"""Attributes of a surface file, and fields of what a worker says of itself."""
_TOLERANCES = {"float64": 1e-10, "float32": 1e-4, "tf32": 1e-2, "float16": 1e-2, "bfloat16": 5e-2}
PRECISIONS = tuple(_TOLERANCES)
"""What can be settled: the attribute ``precision`` of a surface file."""


def fingerprint(identity: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the canonical JSON of an identity (hex)."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def cell_identity(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of an identity that decides the value of a single cell."""
    return {k: v for k, v in identity.items() if k not in ("grid", "repeats", "quantities")}


def read_identity(attributes: Mapping[str, Any], name: str = "identity") -> dict[str, Any] | None:
    """Return the identity that the attributes of a file hold as JSON; None if they do not."""
    try:
        identity = json.loads(attributes[name])
    except (KeyError, TypeError, ValueError):
        return None
    return identity if isinstance(identity, dict) else None


@dataclass(frozen=True, slots=True)
class Difference:
    """The first key in which two identities differ, and its two values."""

    key: str
    ours: Any
    theirs: Any

    @property
    def is_of_code(self) -> bool:
        """Whether it is the content of one of the user's sources."""
        return self.key.startswith("code.")

    def words(self, here: str = "in the job", there: str = "in the file") -> str:
        """Return it as a clause, with names for the places of the two values."""
        if self.is_of_code:
            return f"the source {self.key.removeprefix('code.')} is not what it was"
        if self.key.startswith("digests."):
            return f"the content of {self.key.removeprefix('digests.')} is not what it was"
        return f"{self.key} is {short(self.ours)} {here}, {short(self.theirs)} {there}"

    def __str__(self) -> str:
        return self.words()


def first_difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Difference | None:
    """Return where two identities differ first, contents of files last; None if nowhere.

    Sources are compared where both know them: files are older than their digests.

    Example:
        >>> str(first_difference({"seed": 1}, {"seed": 2}))
        'seed is 1 in the job, 2 in the file'
    """
    left, right = dict(_flat(ours)), dict(_flat(theirs))
    for key in sorted(
        left.keys() | right.keys(), key=lambda k: (k.startswith(("digests.", "code.")), k)
    ):
        a, b = left.get(key, "absent"), right.get(key, "absent")
        if key.startswith("code.") and "absent" in (a, b):
            continue
        if json.dumps(a) != json.dumps(b):  # as in the fingerprint, where 1 is not 1.0
            return Difference(key, a, b)
    return None


def differs_in_sources_known(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    """Whether two identities are of one job, but one of them knows more of the user's sources."""
    return ours.get("code") != theirs.get("code") and first_difference(ours, theirs) is None


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def disagreements(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[Difference]:
    """Return where two settings differ, of those that both sides know.

    Example:
        >>> [str(d.key) for d in disagreements({"threads": 4, "batch_size": 16}, {"threads": 8})]
        ['threads']
    """
    defaults = {"cells_per_pass": 1}
    pairs = {n: [side.get(n, defaults.get(n)) for side in (ours, theirs)] for n in SETTLED}
    known = {name: pair for name, pair in pairs.items() if None not in pair}
    return [Difference(name, *pair) for name, pair in known.items() if not _agree(name, *pair)]


def _agree(name: str, ours: Any, theirs: Any) -> bool:
    """Whether two values are the same; a bare ``cpu`` of an older file may be any processor."""
    if name == "device_kind" and "cpu" in (ours, theirs):
        return str(ours).startswith("cpu") and str(theirs).startswith("cpu")
    return bool(ours == theirs)


def tolerance(precision: str) -> float:
    """Return how far losses of one cell may lie apart, relative to them, in a precision."""
    return _TOLERANCES[precision]
