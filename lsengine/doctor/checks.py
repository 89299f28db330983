"""The result of one check, and all of them as lines or JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One verdict on what is called ``name``."""

    name: str
    verdict: Verdict
    found: str  # with numbers and names
    remedy: str = ""  # what to do; empty if nothing is


def ok(name: str, found: str) -> Check:
    """Return a check without objection."""
    return Check(name=name, verdict=Verdict.OK, found=found)


def warning(name: str, found: str, remedy: str) -> Check:
    """Return a check that found something that works, but not as well as it could."""
    return Check(name=name, verdict=Verdict.WARNING, found=found, remedy=remedy)


def problem(name: str, found: str, remedy: str) -> Check:
    """Return a check that found something that ends a run, or keeps it from starting."""
    return Check(name=name, verdict=Verdict.PROBLEM, found=found, remedy=remedy)


def text(checks: Sequence[Check]) -> str:
    """Return one line per verdict, and a last one that counts them."""
    wide = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        words = "; ".join(filter(None, (check.found, check.remedy)))
        lines.append(f"{check.verdict:8} {check.name:{wide}}  {words}")
    counts = Counter(check.verdict for check in checks)
    problems, warnings = counts[Verdict.PROBLEM], counts[Verdict.WARNING]
    return "\n".join([*lines, f"{len(checks)} checks; problems: {problems}, warnings: {warnings}"])


def as_json(checks: Sequence[Check]) -> str:
    """Return the checks as a JSON list of objects with the attributes of `Check`."""
    return json.dumps([asdict(check) for check in checks], indent=2)


def from_json(document: str) -> list[Check]:
    """Return what `as_json` has made text of.

    Raises:
        ValueError: If it is something else.
    """
    try:
        return [Check(**{**c, "verdict": Verdict(c["verdict"])}) for c in json.loads(document)]
    except (KeyError, TypeError) as error:
        raise ValueError(str(error)) from error
