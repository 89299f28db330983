"""What a claim of the paper is, and the verdicts on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from measures import Kept, NotRunError, UndecidedError

from lsengine.report.flatness import Measure

HOLDS, IN_PART, NOT = "holds", "holds in part", "does not hold here"
NOT_RUN, UNDECIDED = "not run yet", "not decided here"
Numbers = dict[str, float]


@dataclass(frozen=True)
class Outcome:
    """A verdict, the numbers behind it, and both in words."""

    verdict: str
    here: str
    numbers: Numbers = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """What the paper says, in short, and how it is judged."""

    key: str  # the figure, and a letter
    paper: str
    rule: str  # when it holds
    judge: Callable[[Kept], Outcome]

    @property
    def figure(self) -> str:
        """The figure that the claim belongs to."""
        return self.key.rstrip("abcdefgh")

    def outcome(self, kept: Kept) -> Outcome:
        """Judge the claim; what is missing or not decided is a verdict, too."""
        try:
            return self.judge(kept)
        except NotRunError as missing:
            return Outcome(NOT_RUN, f"needs {missing}")
        except UndecidedError as error:
            return Outcome(UNDECIDED, str(error))


def by_count(right: Sequence[bool]) -> str:
    """Return the verdict on a claim of several parts."""
    return HOLDS if all(right) else IN_PART if any(right) else NOT


def graded(value: float, holds: float, in_part: float) -> str:
    """Return the verdict on a number that should be large."""
    return HOLDS if value >= holds else IN_PART if value >= in_part else NOT


def is_greater(one: Measure, other: Measure) -> bool:
    """Compare two numbers.

    Raises:
        UndecidedError: If the smaller one is only a lower bound, or they are equal.
    """
    assert one.value is not None
    assert other.value is not None
    smaller = min(one, other, key=lambda measure: measure.value or 0.0)
    if smaller.is_bound or one.value == other.value:
        raise UndecidedError(f"{shown(one)} and {shown(other)}: neither is known to be greater")
    return one.value > other.value


def exactly(measure: Measure) -> float:
    """Return a number that is no bound.

    Raises:
        UndecidedError: If it is one.
    """
    if measure.is_bound or measure.value is None:
        raise UndecidedError(f"known is only {shown(measure)}")
    return measure.value


def shown(measure: Measure) -> str:
    """Return a number to three digits; of a bound with its sign."""
    return f"{'>= ' if measure.is_bound else ''}{measure.value:.3g}"


def percent(share: float) -> str:
    """Return a share in per cent: two decimals, or two digits if it is tiny."""
    return f"{100 * share:.2f} %" if share == 0 or share >= 1e-3 else f"{100 * share:.2g} %"
