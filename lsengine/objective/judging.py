"""From what a forward pass gives to losses, answers that are right, and metrics, in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lsengine.data.nesting import Nested, count, joined, leaves, lone, mapped
from lsengine.models import calling
from lsengine.objective import batched
from lsengine.objective.criterion import Criterion, OwnObjective
from lsengine.objective.device_state import in_precision
from lsengine.objective.forward import Call
from lsengine.objective.losses import SampleLosses, hits_of, mean, of_samples, with_gradient
from lsengine.objective.means import Metrics
from lsengine.objective.outputs import nested_output
from lsengine.objective.splits import ResidentSplit

Judged = tuple[SampleLosses, Tensor | None, Metrics]
"""Losses of samples, which are right where there are classes, and metrics of an objective."""
Step = Callable[[Nested, Any], Judged]


class SampleValues(NamedTuple):
    """What is made of a few samples, on the CPU.

    Attributes:
        losses: One per sample (N,), or their mean (1,).
        hits: Which share of its labels each sample has right (N,); None without classes.
        metrics: By name, numbers of each sample, (N,) or (N, K).
    """

    losses: Tensor
    hits: Tensor | None
    metrics: Mapping[str, Tensor]


class Judge:
    """Judges batches by a criterion, on a device that has float64.

    With ``has_classes`` it tells which samples are right, where the criterion is a loss.

    Attributes:
        call: What a forward pass does with the network and a batch.
        judges_batches: Whether the criterion is an objective, which gets whole batches.
    """

    def __init__(self, criterion: Criterion, place: torch.device, *, has_classes: bool) -> None:
        self._criterion, self._place, self._has_classes = criterion, place, has_classes
        self.judges_batches = isinstance(criterion, OwnObjective)
        self.call: Call = calling.call
        if isinstance(criterion, OwnObjective):
            self.call = criterion.call

    def step_of(self, forward: Callable[[Any], Any]) -> Step:
        """Return what judges inputs and targets by a forward pass."""

        def step(inputs: Nested, targets: Nested | None) -> Judged:
            return self.judged(forward(inputs), inputs, targets)

        return step

    def judged(self, output: Any, inputs: Nested, targets: Any) -> Judged:
        """Return what is made of a batch's output."""
        if isinstance(self._criterion, OwnObjective):
            losses, metrics = self._criterion.measured(output, count(inputs))
            return losses, None, metrics
        output = self.widened(output)
        losses = of_samples(self._criterion, output, targets)
        right = None
        if self._has_classes:
            right = hits_of(self._criterion, output, lone(targets))
        return losses, right, {}

    def of_split(self, outputs: Iterable[Any], split: ResidentSplit) -> None:
        """Judge all outputs of a split at once, and keep what is made of them."""
        output = joined([self.widened(output) for output in outputs])
        losses, right, _ = self.judged(output, output, split.whole.targets)
        split.keep(split.whole, losses)
        if right is not None and split.whole.hits is not None:
            split.whole.hits.copy_(right)

    def samples(self, pieces: Sequence[tuple[Nested, Any]], targets: Nested | None) -> SampleValues:
        """Return what is made of a few samples, from their batches and outputs."""
        if self.judges_batches:
            parts = [self.judged(output, inputs, None) for inputs, output in pieces]
            losses = torch.cat([of_batch.values for of_batch, _, _ in parts])
            metrics = {
                name: torch.cat([of_batch[name].values for *_, of_batch in parts]).cpu()
                for name in parts[0][2]
            }
            return SampleValues(losses.cpu(), None, metrics)
        sizes = [count(inputs) for inputs, _ in pieces]
        output = _together([self.widened(output) for _, output in pieces], sizes)
        of_batch, right, _ = self.judged(output, output, targets)
        losses = of_batch.values[: 1 if of_batch.is_mean else None]
        return SampleValues(losses.double().cpu(), None if right is None else right.cpu(), {})

    def differentiated(self, output: Any, targets: Any) -> Any:
        """Return losses, or losses and weights, that a gradient may be taken of."""
        if isinstance(self._criterion, OwnObjective):
            return self._criterion.loss(output)
        return self._criterion(self.widened(output), targets)

    def mean(self, output: Any, targets: Any) -> Tensor:
        """Return the mean loss of a batch in the output's own precision, for training.

        Raises:
            ValueError: As `losses.mean`.
            UsageError: If it has no gradient, although gradients are recorded.
        """
        if not isinstance(self._criterion, OwnObjective):
            nested = output if isinstance(output, Tensor) else nested_output(output)
            return mean(self._criterion, nested, targets)
        found = self._criterion.loss(output)
        losses = SampleLosses(*found) if isinstance(found, tuple) else SampleLosses(found)
        return with_gradient(losses.mean())

    def of_group(self, logits_GKN: Tensor, targets: Nested | None) -> tuple[Tensor, Tensor]:
        """Return losses and hits (G, N) of several cells at once; the criterion is a loss."""
        assert not isinstance(self._criterion, OwnObjective)
        return batched.losses_and_hits(self._criterion, logits_GKN, lone(targets))

    def widened(self, output: Any) -> Nested:
        """Return an output in float64, where losses are computed."""
        if isinstance(output, Tensor):
            return in_precision(output.to(self._place), torch.float64)
        nested = nested_output(output)
        return mapped(lambda t: in_precision(t.to(self._place), torch.float64), nested)


def _together(outputs: Sequence[Nested], sizes: Sequence[int]) -> Nested:
    """Join outputs of batches along the samples; of a number for each batch take the mean."""
    columns = zip(*([tensor for _, tensor in leaves(output)] for output in outputs), strict=True)
    shares = torch.tensor(sizes, dtype=torch.float64) / sum(sizes)
    whole = iter(
        [
            torch.cat(column) if column[0].ndim else torch.stack(column) @ shares.to(column[0])
            for column in columns
        ]
    )
    return mapped(lambda _: next(whole), outputs[0])
