"""A metric of a whole split that is no mean over samples: a number made of several means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Summary:
    """What an objective returns for a metric that is made of means over all samples of a split.

    Calibration error is one, whose means are the signed gaps of the bins:
    ``Summary(gaps, lambda mean: mean.abs().sum())``.  So is perplexity:
    ``Summary(losses[:, None], lambda mean: mean.exp().sum(), weights=tokens)``.  There is no error
    bar.

    Attributes:
        values: K numbers for every sample, (N, K).
        finish: From their means over the split, float64 (K,) on the CPU, to one number.
        weights: How much each sample counts, (N,); None if all count alike.
    """

    values: Tensor
    finish: Callable[[Tensor], Any]
    weights: Tensor | None = None
