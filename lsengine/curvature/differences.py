"""Products with a Hessian as differences of gradients, for operations with one derivative only.

A step is 1e-7 of the weights' length in float64.  The two sides of a difference agree unless a
kink lies between, as those of ReLUs do.  Then the batch is halved until the kink is alone with
its sample, and the step is shortened there.  The product is good to about 1e-6.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor

from lsengine.curvature.batches import Batch, part
from lsengine.data.nesting import count

Tensors = dict[str, Tensor]
Sums = Callable[[Batch], tuple[Tensor, Tensor]]  # of losses and of weights
_AGREEING = 1e-4  # of both sides, as a share of their length
_BUDGET = 12  # times the samples of a batch that halves of it may have together


class DisplacedGradients:
    """Gradients on both sides of a network's present weights along a direction.

    The weights are back where they were at its end.

    Args:
        parameters: What the gradients are by; leaves of autograd.
        direction: Shaped like them.
    """

    def __init__(self, parameters: Tensors, direction: Tensors) -> None:
        self._parameters, self._direction = parameters, direction
        self._centre = {n: p.detach().clone() for n, p in parameters.items()}
        self._length = _length(direction)
        dtype = next(iter(parameters.values())).dtype.to_real()
        self._is_exact = dtype == torch.float64
        share = 1e-7 if self._is_exact else 3e-3
        self._step = share * (_length(self._centre) or 1.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self._move(0.0)

    def quotient(self, sums: Sums, batch: Batch, *, whole: bool = False) -> Tensors:
        """Return the product of the Hessian of a batch's mean loss with the direction.

        A batch that is to stay ``whole`` is not halved, whatever kinks there are.
        """
        if self._length == 0:
            return {}
        budget = [0 if whole else _BUDGET * count(batch[0])]
        total, weight = self._halved(sums, batch, budget)
        return {name: part * (self._length / weight) for name, part in total.items()}

    def _halved(self, sums: Sums, batch: Batch, budget: list[int]) -> tuple[Tensors, float]:
        """Return the quotient of the sum over a batch, and the sum of its weights."""
        samples = count(batch[0])
        central, agree, weight = self._quotient(sums, batch, self._step)
        budget[0] -= samples
        if agree or budget[0] <= 0 or not self._is_exact:
            return central, weight
        if samples == 1:
            for shorter in (self._step / 8, self._step / 64):
                central, agree, weight = self._quotient(sums, batch, shorter)
                if agree:
                    break
            return central, weight
        half = samples // 2
        left, left_weight = self._halved(sums, part(batch, slice(half)), budget)
        right, right_weight = self._halved(sums, part(batch, slice(half, None)), budget)
        return {n: part + right[n] for n, part in left.items()}, left_weight + right_weight

    def _quotient(self, sums: Sums, batch: Batch, step: float) -> tuple[Tensors, bool, float]:
        """Return the central quotient, and whether the two on either side agree with it."""
        (above, _), (here, weight), (below, _) = (
            self._gradient(sums, batch, s) for s in (step, 0.0, -step)
        )
        central = {n: (above[n] - below[n]) / (2 * step) for n in here}
        gap = {n: (above[n] - 2 * here[n] + below[n]) / step for n in here}
        apart, size = _length(gap), _length(central)
        agree = not apart > _AGREEING * size  # also where they are no numbers
        return central, agree, weight

    def _gradient(self, sums: Sums, batch: Batch, step: float) -> tuple[Tensors, float]:
        self._move(step)
        total, weight = sums(batch)
        for p in self._parameters.values():
            p.grad = None  # of derivatives that the forward pass took
        if total.requires_grad:
            total.backward()
        gradient = {
            n: torch.zeros_like(p) if p.grad is None else p.grad.detach()
            for n, p in self._parameters.items()
        }
        for p in self._parameters.values():
            p.grad = None
        return gradient, float(weight)

    def _move(self, step: float) -> None:
        with torch.no_grad():
            for name, p in self._parameters.items():
                p.data.copy_(self._centre[name])
                if step:
                    p.data.add_(self._direction[name], alpha=step / self._length)


def _length(tensors: Tensors) -> float:
    return math.hypot(*(float(torch.linalg.vector_norm(t.flatten())) for t in tensors.values()))
