"""Whether a gradient and a product with a Hessian are right, by differences of plain ones.

A difference across a kink, as of a ReLU, says nothing.  So several steps and both sides are
tried, and only what is steady and smooth speaks against a value.

Shape suffix: P numbers of the chosen parameters.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lsengine.curvature.plain import PlainLoss

_TOLERANCES = (1e-4, 1e-2)  # the second where rounding leaves no more
_COARSE_STEPS = (1e-1, 1e-2, 1e-3)  # where rounding is that of float32
_LOSS_STEPS, _GRADIENT_STEPS = (1e-4, 1e-5, 1e-6), (1e-6, 1e-7, 1e-8)  # in float64
Distance = Callable[[Tensor, Tensor], float]


@dataclass(frozen=True, slots=True)
class Quotients:
    """Difference quotients of one step, on either side."""

    above: Tensor
    below: Tensor

    @property
    def central(self) -> Tensor:
        """Their mean, whose error is of second order."""
        return (self.above + self.below) / 2


def verdict(value: Tensor, steps: Iterator[Quotients], distance: Distance) -> bool | None:
    """Return whether a value is the derivative that quotients approach; None if they do not.

    Steps fall by the same factor.  A quotient that agrees decides.  Against a value speaks that
    two steps give the same other one and that both sides approach each other, as they do not at
    a kink.
    """
    seen = []
    for quotients in steps:
        near = [quotients.central, quotients.above, quotients.below]
        nearest = min((distance(value, q) for q in near), key=_nan_last)
        if nearest <= _TOLERANCES[0]:
            return True
        seen.append((quotients, nearest, distance(quotients.above, quotients.below)))
    for tolerance in _TOLERANCES:
        if any(nearest <= tolerance for _, nearest, _ in seen):
            return True
        for (wide, _, wide_gap), (narrow, _, gap) in itertools.pairwise(seen):
            is_steady = distance(wide.central, narrow.central) <= tolerance / 3
            if is_steady and gap <= max(tolerance, wide_gap / 2):
                return False
    return None


def _nan_last(number: float) -> float:
    return math.inf if math.isnan(number) else number


class Place:
    """A few samples at some weights, and a direction from there."""

    def __init__(self, plain: PlainLoss, at_P: Tensor, direction_P: Tensor, is_exact: bool) -> None:
        self.plain, self.at_P, self.direction_P = plain, at_P, direction_P
        self.is_exact = is_exact
        self._scale_P = direction_P.abs()
        self._lengths = plain.lengths

    @functools.cached_property
    def loss(self) -> float:
        """The mean loss."""
        return self.plain.value(self.at_P)

    @functools.cached_property
    def gradient(self) -> Tensor:
        """Its gradient."""
        return self.plain.gradient(self.at_P)

    def gradient_is_right(self, gradient_P: Tensor) -> bool | None:
        """Compare a gradient with differences of losses."""
        terms_P = gradient_P * self.direction_P
        floor = max(float(torch.linalg.vector_norm(terms_P)), 1e-6 * abs(self.loss))

        def distance(a: Tensor, b: Tensor) -> float:
            return _ratio(float((a - b).abs()), max(float(a.abs()), float(b.abs()), floor))

        fine = self._loss_quotients(_LOSS_STEPS) if self.is_exact else iter(())
        is_right = verdict(terms_P.sum(), fine, distance)
        if is_right is None:
            return verdict(terms_P.sum(), self._loss_quotients(_COARSE_STEPS), distance)
        return is_right

    def slope(self) -> float:
        """Return the directional derivative by differences of the middle step."""
        step = (_LOSS_STEPS if self.is_exact else _COARSE_STEPS)[1]
        above, below = (self.plain.value(self._moved(s)) for s in (step, -step))
        return (above - below) / (2 * step)

    def product_is_right(self, product_P: Tensor) -> bool | None:
        """Compare a product with differences of gradients, parameter by parameter."""
        fine = map(self._gradient_quotient, _GRADIENT_STEPS if self.is_exact else ())
        is_right = verdict(product_P, fine, self.distance)
        if is_right is None:  # rounding may be that of float32 inside of the network
            is_right = verdict(
                product_P, map(self._gradient_quotient, _COARSE_STEPS), self.distance
            )
            # Far steps cross many kinks, which may look like a slope: they do not refuse.
            return is_right or (None if self.is_exact else is_right)
        return is_right

    def distance(self, a_P: Tensor, b_P: Tensor) -> float:
        """Return the largest relative difference of two products over the parameters.

        Numbers count in units of their weights.
        """
        floor = 1e-4 * max(self._norms(self.gradient))
        apart, a, b = self._norms(a_P - b_P), self._norms(a_P), self._norms(b_P)
        least = max(floor, 1e-2 * max(b))
        ratios = [_ratio(d, max(x, y, least)) for d, x, y in zip(apart, a, b, strict=True)]
        return math.nan if any(map(math.isnan, ratios)) else max(ratios)

    def _norms(self, vector_P: Tensor) -> list[float]:
        pieces = (vector_P * self._scale_P).split(self._lengths)
        return [float(torch.linalg.vector_norm(piece)) for piece in pieces]

    def _loss_quotients(self, steps: tuple[float, ...]) -> Iterator[Quotients]:
        for step in steps:
            above, below = (self.plain.value(self._moved(s)) for s in (step, -step))
            sides = (above - self.loss) / step, (self.loss - below) / step
            yield Quotients(*(torch.tensor(side, dtype=torch.float64) for side in sides))

    @functools.lru_cache(maxsize=6)  # noqa: B019 -- places live for one check
    def _gradient_quotient(self, step: float) -> Quotients:
        above_P, below_P = (self.plain.gradient(self._moved(s)) for s in (step, -step))
        return Quotients((above_P - self.gradient) / step, (self.gradient - below_P) / step)

    def _moved(self, step: float) -> Tensor:
        return self.at_P + step * self.direction_P


def _ratio(difference: float, scale: float) -> float:
    return 0.0 if difference == 0 else difference / scale if scale else math.inf
