"""What decides the values of a surface: fingerprints, and where two differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from lsengine.job.messages import short


def fingerprint(identity: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the canonical JSON of an identity (hex)."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def cell_identity(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of an identity that decides the value of a single cell."""
    return {k: v for k, v in identity.items() if k not in ("grid", "repeats", "quantities")}


def first_difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str | None:
    """Return ``key: ours, in the file theirs`` for the first key that differs, or None."""
    left, right = dict(_flat(ours)), dict(_flat(theirs))
    for key in sorted(left.keys() | right.keys(), key=lambda k: (k.startswith("digests."), k)):
        a, b = left.get(key, "absent"), right.get(key, "absent")
        if json.dumps(a) != json.dumps(b):  # as in the fingerprint, where 1 is not 1.0
            if key.startswith("digests."):
                return f"the content of {key.removeprefix('digests.')} is not what it was"
            return f"{key} is {short(a)} in the job, {short(b)} in the file"
    return None


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value
