"""Losses: from a network's outputs to one number per sample, and which samples are right.

Shape suffixes: N samples, K outputs.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from lsengine.data.dataset import NO_LABEL
from lsengine.data.nesting import Nested, count, mapped
from lsengine.errors import UsageError
from lsengine.external import user_code
from lsengine.objective import builtin
from lsengine.objective.classes import ClassAxis, class_axis, have_same_places, shapes
from lsengine.objective.outputs import logits_of
from lsengine.objective.reported import Kind, ReportedLoss

Loss = Callable[[Any, Any], Any]
"""From float64 outputs and targets to what `of_samples` takes."""


class SampleLosses(NamedTuple):
    """What a loss says of a batch.

    Attributes:
        values: One per sample (N,); the mean, N times, if the loss gives no more.
        weights: How much each counts (N,); None if all count alike.
        is_mean: Whether there is only a mean, which has no error bar.
    """

    values: Tensor
    weights: Tensor | None = None
    is_mean: bool = False

    def mean(self) -> Tensor:
        """Return the mean by the weights; 0 if all of them are 0."""
        if self.weights is None:
            return self.values.mean()
        total = self.weights.sum()
        return (self.values * self.weights).sum() / total.where(total > 0, 1)

    def total_weight(self) -> float:
        """Return the sum of the weights."""
        return len(self.values) if self.weights is None else float(self.weights.sum())


def loss_function(
    name: str,
    options: Mapping[str, Any] = MappingProxyType({}),
    *,
    job_folder: Path,
    lacks_labels: bool = False,
    own_loss: str | None = None,
) -> Loss:
    """Return the loss of a job, by which `of_samples` gets its numbers.

    It is a built-in one with its options (`lsengine.objective.builtin`), or ``module:function``,
    called as ``function(output, target)``.  With ``lacks_labels`` some targets are `NO_LABEL`: the
    loss is weighted by how many are not.  ``output`` is the loss that the network returns,
    of a kind ``own_loss`` (`lsengine.objective.reported`).

    Raises:
        UsageError: If a ``module:function`` cannot be imported; or, when it is called, if it gives
            no weights where labels are lacking.
    """
    if name == "output":
        return ReportedLoss(cast(Kind | None, own_loss), lacks_labels=lacks_labels)
    if ":" not in name:
        loss: Loss = builtin.of_name(name, options, lacks_labels=lacks_labels)
        return loss
    found: Any = user_code.lookup(name, key="loss", job_folder=job_folder)
    if isinstance(found, type) and issubclass(found, nn.Module):
        found = user_code.call(name, {}, key="loss", job_folder=job_folder)
    if isinstance(found, nn.Module):  # with weights of classes, perhaps
        found = copy.deepcopy(found).double()
    return OwnLoss(found, lacks_labels=lacks_labels, class_axis=options.get("class_axis"))


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnLoss:
    """A loss of the user's, called with copies of outputs and targets: it may write into them.

    Attributes:
        class_axis: Where the classes are, for the accuracy.
    """

    function: Callable[..., Any] = field(kw_only=False)
    lacks_labels: bool = False
    class_axis: ClassAxis | None = None

    def __call__(self, output: Nested, target: Nested) -> Any:
        """Return what it makes of a batch.

        Raises:
            UsageError: If labels are lacking, and it returns no weights.
        """
        result = self.function(mapped(Tensor.clone, output), mapped(Tensor.clone, target))
        if self.lacks_labels and not isinstance(result, tuple | list):
            raise UsageError(
                f"loss: some labels are {NO_LABEL}, which stands for none; return a pair (numbers, "
                "weights): the mean over each sample's labels, and how many it has; or take a "
                "built-in loss, such as cross_entropy, which leaves them out"
            )
        return result


def hits_of(loss: Loss, output: Nested, targets: Tensor) -> Tensor:
    """Return the `hits` of a batch whose outputs and labels go together as a loss has it.

    Raises:
        ValueError: As `hits`; or if that is not known.
    """
    pair = loss.paired(output, targets) if isinstance(loss, ReportedLoss) else (output, targets)
    return hits(*pair, class_axis_of(loss))


def class_axis_of(loss: Loss) -> ClassAxis | None:
    """Return where a loss is told that the classes are; None if shapes are to tell."""
    axis: ClassAxis | None = getattr(loss, "class_axis", None)
    return axis


def labelled(targets: Tensor) -> Tensor:
    """Return how many labels each sample has (N,), float64."""
    return (targets != NO_LABEL).reshape(len(targets), -1).sum(1, dtype=torch.float64)


def of_samples(loss: Loss, output: Nested, targets: Nested) -> SampleLosses:
    """Return the losses of a batch, whose outputs (N, ...) and targets (N, ...) are in float64.

    Outputs are as `nested_output` returns them.  A loss gives one number per sample (N,), their
    mean, or a pair: numbers per sample (N,) and their weights (N,), for the mean
    ``sum(w * v) / sum(w)``.  Nothing is broadcast.

    Raises:
        ValueError: If it gives something else, with the shapes.
        UsageError: If a weight is negative or no number.
    """
    result, samples = loss(output, targets), count(targets)
    weights = None
    if isinstance(result, tuple | list) and len(result) == 2:
        result, weights = result
        if isinstance(result, Tensor) and result.ndim == 0:
            raise ValueError(f"it returned a pair that begins with one number; {_EXPECTED}")
    if not isinstance(result, Tensor) or result.is_complex():
        kind = result.dtype if isinstance(result, Tensor) else type(result).__name__
        raise ValueError(f"it returned {kind}; {_EXPECTED}")
    if weights is None and result.ndim == 0:
        return SampleLosses(result.expand(samples), is_mean=True)
    if result.shape != (samples,):
        raise ValueError(
            f"it returned shape {[*result.shape]} for {shapes(output, targets)}; {_EXPECTED}"
            f"{shape_hint(output, targets, result)}"
        )
    if weights is not None and (not isinstance(weights, Tensor) or weights.shape != (samples,)):
        found = [*weights.shape] if isinstance(weights, Tensor) else type(weights).__name__
        raise ValueError(f"it returned weights {found} for {samples} samples; {_EXPECTED}")
    if weights is None:
        return SampleLosses(result)
    if not bool(((weights >= 0) & (weights < math.inf)).all()):
        raise UsageError("loss: it returned weights that are negative, NaN or infinite")
    return SampleLosses(result, weights.detach())


def mean(loss: Loss, output: Nested, targets: Nested) -> Tensor:
    """Return the mean loss of a batch, weighted where it has weights; for training.

    Raises:
        ValueError: As `of_samples`.
        UsageError: If it has no gradient, although gradients are recorded.
    """
    return with_gradient(of_samples(loss, output, targets).mean())


def with_gradient(result: Tensor) -> Tensor:
    """Return a mean loss.

    Raises:
        UsageError: If it has no gradient, although gradients are recorded.
    """
    if torch.is_grad_enabled() and not result.requires_grad:
        raise UsageError(
            "model.arch: the training loss has no gradient, so nothing can be trained; take "
            "no_grad(), inference_mode() or detach() out of forward and of the loss"
        )
    return result


_EXPECTED = "expected one number per sample, their mean, or a pair (numbers, weights)"


def hits(output: Any, targets: Tensor, wanted: ClassAxis | None = None) -> Tensor:
    """Return which share of its labels each sample has right (N,), float64; 0 without labels.

    Of classes, on the second axis or the last one, the largest output is the answer, of the first
    of several.  ``wanted`` says which axis where shapes do not (`class_axis`).  Outputs of the
    shape of the targets, one number for each label of 0 or 1, answer 1 where they are positive:
    one logit, or one logit for each of several labels.

    Raises:
        ValueError: If output and targets are neither, or may be two of these.
    """
    output = logits_of(output)
    axis = class_axis(output, targets, wanted)
    if axis is None and output.ndim > 1 and output.shape[1] > 1:
        axis = 1 if have_same_places(output[:, 0], targets) else None
    if axis is not None:
        right: Tensor = output.argmax(axis) == targets.reshape(output.select(axis, 0).shape)
    elif have_same_places(output, targets):
        right = (output > 0) == (targets.view_as(output) > 0)
    else:
        raise ValueError(shapes(output, targets) + " do not say which answers are right")
    right = right & (targets != NO_LABEL).view_as(right)
    if right.ndim == 1:
        return right.double()
    return right.double().flatten(1).sum(1) / labelled(targets).clamp(min=1)


def shape_hint(output: Nested, targets: Nested, result: Tensor | None = None) -> str:
    """Return what to do where shapes make a loss another one than is meant; empty if none do."""
    if not isinstance(output, Tensor) or not isinstance(targets, Tensor):
        return ""
    if output.shape != targets.shape and output.numel() == targets.numel():
        return (
            f"; {shapes(output, targets)} are broadcast against each other: use "
            "output.view_as(target)"
        )
    samples = len(targets)
    if result is not None and result.ndim and result.numel() and result.numel() % samples == 0:
        return "; take the mean over each sample's numbers: .reshape(len(target), -1).mean(1)"
    return ""
