"""Means over the samples of a split, and how sure they are.

Shape suffixes: N samples, G cells, K numbers of a summary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lsengine.errors import UsageError
from lsengine.objective.losses import SampleLosses
from lsengine.objective.summary import Summary

Metrics = Mapping[str, SampleLosses | Summary]
"""By name, what an objective makes of a batch besides its loss, float64."""


def sums(values_GN: Tensor) -> Tensor:
    """Sum rows in blocks of fixed size, so that the number of threads cannot change a bit."""
    padding = -values_GN.shape[1] % 1024
    blocks = F.pad(values_GN, (0, padding)).view(len(values_GN), -1, 1024)
    return blocks.sum(1).sum(1)


def means_and_bars(values_GN: Tensor, weights_N: Tensor | None, what: str) -> tuple[Tensor, Tensor]:
    """Return means (G,) and their standard errors (G,).

    What samples of weight 0 are does not matter, though they count as samples.  The standard error
    of a weighted mean is that of a ratio of sums over samples (Cochran 1977, Sampling Techniques,
    section 6.3).

    Raises:
        UsageError: If all weights are 0; it begins with ``what`` there is a mean of.
    """
    count = values_GN.shape[1]
    if weights_N is None:
        mean_G = sums(values_GN) / count
        spread_G = sums((values_GN - mean_G[:, None]).square())
        return mean_G, (spread_G / max(1, count - 1) / count).sqrt()
    total = sums(weights_N[None])
    if not float(total):
        raise UsageError(f"{what} samples are 0")
    values_GN = values_GN.where(weights_N > 0, 0)  # not a number, perhaps
    mean_G = sums(values_GN * weights_N) / total
    spread_G = sums(((values_GN - mean_G[:, None]) * weights_N).square())
    return mean_G, (spread_G * count / max(1, count - 1)).sqrt() / total


class KeptMetrics:
    """Room for the metrics of all samples of a split, which the first batch makes.

    Attributes:
        names: Of the metrics, in the order of the objective.
    """

    def __init__(self, samples: int, split: str) -> None:
        self._samples, self._split = samples, split
        self._values: dict[str, Tensor] = {}
        self._weights: dict[str, Tensor] = {}
        self._finish: dict[str, Any] = {}
        self.names: tuple[str, ...] = ()

    def keep(self, start: int, metrics: Metrics) -> None:
        """Put the metrics of the batch that begins at a sample where `means` looks for them."""
        self.names = tuple(metrics)
        for name, metric in metrics.items():
            values = metric.values
            if name not in self._values:
                self._values[name] = values.new_empty(self._samples, *values.shape[1:])
            batch = slice(start, start + len(values))
            self._values[name][batch] = values
            if metric.weights is not None:
                if name not in self._weights:
                    self._weights[name] = values.new_ones(self._samples)
                self._weights[name][batch] = metric.weights
            if isinstance(metric, Summary):
                self._finish[name] = metric.finish

    def means(self) -> dict[str, float]:
        """Return ``<split>_<name>`` and ``<split>_<name>_se``; of a summary the first alone."""
        found: dict[str, float] = {}
        for name in self.names:
            key, weights_N = f"{self._split}_{name}", self._weights.get(name)
            what = f'objective: the weights of "{name}" of all {self._samples} {self._split}'
            if name in self._finish:
                mean_K, _ = means_and_bars(self._values[name].T, weights_N, what)
                found[key] = _finished(name, self._finish[name], mean_K.cpu())
            else:
                mean_G, bar_G = means_and_bars(self._values[name][None], weights_N, what)
                found[key], found[f"{key}_se"] = torch.cat([mean_G, bar_G]).tolist()
        return found


def _finished(name: str, finish: Any, mean_K: Tensor) -> float:
    """Return the number that a summary makes of its means."""
    try:
        return float(finish(mean_K))
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(
            f'objective: finish of the summary "{name}" does not make one number of {len(mean_K)} '
            f"means: {type(error).__name__}: {error}"
        ) from error
