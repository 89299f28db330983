"""What a batch is judged by: a loss of outputs and targets, or an objective of network and batch.

Shape suffix: N samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lsengine.data.nesting import Nested
from lsengine.errors import UsageError
from lsengine.external import user_code
from lsengine.objective.losses import Loss, SampleLosses
from lsengine.objective.means import Metrics
from lsengine.objective.summary import Summary

_WHAT = "expected one number per sample, or a pair (numbers, weights)"


class Measured(NamedTuple):
    """What an objective makes of a batch, float64."""

    losses: SampleLosses
    metrics: Metrics


class OwnObjective:
    """An objective of a user's own, called as ``function(network, batch)``.

    It returns one number per sample (N,); or a pair: numbers and their weights (N,); or these by
    name, ``loss`` among them, where a `Summary` may be, too.
    """

    def __init__(self, name: str, function: Callable[[nn.Module, Any], Any]) -> None:
        self._name, self._function = name, function
        self._names: tuple[str, ...] | None = None  # as the first batch had them, or the job has

    def require(self, metrics: Sequence[str]) -> None:
        """From now on refuse batches with other names than loss and these, ``_se`` left out."""
        self._names = ("loss", *(name for name in metrics if not name.endswith("_se")))

    def call(self, network: nn.Module, batch: Nested) -> Any:
        """Return what the function makes of a batch: what `measured` and `loss` take."""
        return self._function(network, batch)

    def measured(self, result: Any, samples: int) -> Measured:
        """Return losses and metrics of a batch, without a history of gradients.

        Raises:
            UsageError: If the function returned something else.
        """
        named = self._named(result)
        self._check_names(tuple(named))
        metrics = {
            name: self._summary(name, value, samples)
            if isinstance(value, Summary)
            else SampleLosses(*self._pair(name, value, samples))
            for name, value in named.items()
            if name != "loss"
        }
        values, weights = self._pair("loss", named["loss"], samples)
        losses = SampleLosses(values.detach(), weights)
        return Measured(losses, {name: _detached(metric) for name, metric in metrics.items()})

    def loss(self, result: Any) -> Tensor | tuple[Tensor, Tensor]:
        """Return the losses (N,), which may be differentiated, or losses and weights, float64.

        Raises:
            UsageError: As `measured`, or if no gradient can be taken of them where it is wanted.
        """
        value = self._named(result)["loss"]
        first = value[0] if isinstance(value, tuple | list) and value else value
        samples = len(first) if isinstance(first, Tensor) and first.ndim else 0
        values, weights = self._pair("loss", value, samples)
        return values if weights is None else (values, weights)

    def _named(self, result: Any) -> Mapping[str, Any]:
        if not isinstance(result, Mapping):
            return {"loss": result}
        if "loss" not in result:
            found = ", ".join(map(str, result)) or "nothing"
            raise UsageError(
                f'objective: {self._name} returned a dict with {found}; one "loss" is needed, the '
                "others are metrics"
            )
        for name in result:
            if problem := _problem(name):
                raise UsageError(f"objective: {self._name} returned a metric {name!r}, {problem}")
        return result

    def _check_names(self, names: tuple[str, ...]) -> None:
        """Refuse other names than before, in whatever order."""
        if self._names is not None and sorted(names) != sorted(self._names):
            raise UsageError(
                f"objective: {self._name} returned {', '.join(self._names)} for a batch, and "
                f"{', '.join(names)} for another; return the same names for every batch"
            )
        self._names = self._names or names

    def _pair(self, name: str, value: Any, samples: int) -> tuple[Tensor, Tensor | None]:
        """Return values and weights, float64."""
        weights = None
        if isinstance(value, tuple | list):
            if len(value) != 2:
                raise self._refusal(name, f"a {type(value).__name__} of {len(value)}", _WHAT)
            value, weights = value
        values = self._per_sample(name, value, samples)
        if weights is None:
            return values, None
        return values, self._weights(name, weights, samples)

    def _per_sample(self, name: str, value: Any, samples: int) -> Tensor:
        if not isinstance(value, Tensor):
            hint = "; make it a tensor: torch.tensor(values)"
            raise self._refusal(name, type(value).__name__, _WHAT + hint)
        if value.is_complex():
            raise self._refusal(name, f"numbers of {value.dtype}", _WHAT + ", which is real")
        if value.ndim == 0:
            hint = (
                "; a mean of a batch has no error bar, and batches may differ in size: leave out "
                '.mean(), or take reduction="none"'
            )
            raise self._refusal(name, "one number", _WHAT + hint)
        if value.shape != (samples,):
            many = value.numel() and value.numel() % samples == 0 and len(value) == samples
            hint = "; take the mean over each sample's numbers: .flatten(1).mean(1)" if many else ""
            raise self._refusal(name, f"shape {[*value.shape]}", _WHAT + hint, samples)
        return _wide(value)

    def _weights(self, name: str, weights: Any, samples: int) -> Tensor:
        if not isinstance(weights, Tensor) or weights.shape != (samples,):
            is_tensor = isinstance(weights, Tensor)
            found = f"shape {[*weights.shape]}" if is_tensor else type(weights).__name__
            raise self._refusal(name, f"weights of {found}", "expected one per sample", samples)
        wide = _wide(weights.detach())
        if not bool(((wide >= 0) & (wide < math.inf)).all()):
            hint = "expected numbers from 0 up"
            raise self._refusal(name, "weights that are negative, NaN or infinite", hint)
        return wide

    def _summary(self, name: str, summary: Summary, samples: int) -> Summary:
        values = summary.values
        if not isinstance(values, Tensor) or values.ndim != 2 or len(values) != samples:
            is_tensor = isinstance(values, Tensor)
            found = f"shape {[*values.shape]}" if is_tensor else type(values).__name__
            expected = "expected a row per sample, [N, K]"
            raise self._refusal(name, f"a Summary of {found}", expected, samples)
        if values.is_complex():
            raise self._refusal(name, f"numbers of {values.dtype}", "expected real ones")
        weights = summary.weights
        checked = None if weights is None else self._weights(name, weights, samples)
        return Summary(_wide(values), summary.finish, checked)

    def _refusal(
        self, name: str, found: str, expected: str, samples: int | None = None
    ) -> UsageError:
        of = "" if samples is None else f" for {samples} samples"
        return UsageError(f'objective: {self._name} returned {found}{of} as "{name}"; {expected}')


Criterion = Loss | OwnObjective


def own_objective(name: str, *, job_folder: Path) -> OwnObjective:
    """Return an objective ``module:function``; a class is called without arguments to make one.

    Raises:
        UsageError: If it cannot be imported.
    """
    found: Any = user_code.lookup(name, key="objective", job_folder=job_folder)
    if isinstance(found, type):
        found = user_code.call(name, {}, key="objective", job_folder=job_folder)
    return OwnObjective(name, found)


def _problem(name: Any) -> str:
    """Return what is wrong with the name of a metric; else nothing."""
    if not isinstance(name, str) or not name.isidentifier() or not name.isascii():
        return "which is no name; take letters, digits and underscores"
    if name.endswith("_se"):
        return "but _se is the end of the names of standard errors; take another one"
    return ""


def _detached(metric: SampleLosses | Summary) -> SampleLosses | Summary:
    values = metric.values.detach()
    if isinstance(metric, Summary):
        return Summary(values, metric.finish, metric.weights)
    return SampleLosses(values, metric.weights)


def _wide(tensor: Tensor) -> Tensor:
    """Return numbers in float64, on the CPU where the device has none."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).to(torch.float64)
