"""Losses: from a network's outputs to one number per sample, and which samples are right.

Shape suffixes: N samples, K outputs.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lsengine.data.dataset import NO_LABEL
from lsengine.errors import UsageError
from lsengine.external import user_code
from lsengine.geometry.parameters import as_real

Loss = Callable[[Tensor, Tensor], Any]
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


def loss_function(name: str, *, job_folder: Path, lacks_labels: bool = False) -> Loss:
    """Return the loss of a job, by which `of_samples` gets its numbers.

    It is ``cross_entropy``; ``mse`` (mean over outputs; integer targets are taken as one-hot
    vectors); or ``module:function``, called as ``function(output, target)``.  With
    ``lacks_labels`` some targets are `NO_LABEL`: the loss is weighted by how many are not.

    Raises:
        UsageError: If a ``module:function`` cannot be imported; or, when it is called, if it gives
            no weights where labels are lacking.
    """
    if name == "cross_entropy":
        return _cross_entropy_of_labelled if lacks_labels else cross_entropy
    if name == "mse":
        if lacks_labels:
            raise UsageError(f"loss: mse has no labels of {NO_LABEL}; use a loss of your own")
        return mse
    found: Any = user_code.lookup(name, key="loss", job_folder=job_folder)
    if isinstance(found, type) and issubclass(found, nn.Module):
        found = user_code.call(name, {}, key="loss", job_folder=job_folder)
    if isinstance(found, nn.Module):  # with weights of classes, perhaps
        found = copy.deepcopy(found).double()
    own: Callable[..., Any] = found

    def on_copies(output: Tensor, target: Tensor) -> Any:
        result = own(output.clone(), target.clone())  # it may write into what it is given
        if lacks_labels and not isinstance(result, tuple | list):
            raise UsageError(
                f"loss: some labels are {NO_LABEL}, which stands for none; return a pair (numbers, "
                "weights): the mean over each sample's labels, and how many it has"
            )
        return result

    return on_copies


def cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """Return the cross entropy of every sample (N,), classes on the second axis."""
    output, target = _of_one_class(output, target)
    return _per_sample(F.cross_entropy(output, target, reduction="none"))


def _cross_entropy_of_labelled(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean over the labels that each sample has (N,), and their number (N,)."""
    output, target = _of_one_class(output, target)
    each = F.cross_entropy(output, target, ignore_index=NO_LABEL, reduction="none")
    counts = labelled(target)
    return each.reshape(len(target), -1).sum(1) / counts.clamp(min=1), counts


def _of_one_class(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return (N, K) and (N,) for any shapes with one label and K outputs per sample."""
    has_one = not target.is_floating_point() and target.numel() == len(target)
    if has_one and output.ndim > 1 and output[:, 0].numel() == len(target):
        return output.flatten(1), target.flatten()
    return output, target


def labelled(targets: Tensor) -> Tensor:
    """Return how many labels each sample has (N,), float64."""
    return (targets != NO_LABEL).reshape(len(targets), -1).sum(1, dtype=torch.float64)


def mse(output: Tensor, target: Tensor) -> Tensor:
    """Return the squared error of every sample (N,), the mean over its outputs.

    Raises:
        ValueError: If output and targets have not as many numbers per sample.
    """
    if not (target.is_floating_point() or target.is_complex()) and target.ndim == 1:
        target = F.one_hot(target, output.shape[1]).to(output.dtype)
    if target.shape != output.shape:
        if target[:1].numel() != output[:1].numel() or len(target) != len(output):
            raise ValueError(_shapes(output, target) + " have not as many numbers per sample")
        target = target.view_as(output)  # (N,) and (N, 1), or (N, K) and (N, K, 1, 1)
    square = as_real(output - target).square()  # of real and imaginary parts
    is_complex = output.is_complex() or target.is_complex()
    return _per_sample(square.sum(-1) if is_complex else square)


def of_samples(loss: Loss, output: Tensor, targets: Tensor) -> SampleLosses:
    """Return the losses of a batch, whose outputs (N, ...) and targets (N, ...) are in float64.

    A loss gives one number per sample (N,), their mean, or a pair: numbers per sample (N,) and
    their weights (N,), for the mean ``sum(w * v) / sum(w)``.  Nothing is broadcast.

    Raises:
        ValueError: If it gives something else, with the shapes.
        UsageError: If a weight is negative or no number.
    """
    result, samples = loss(output, targets), len(targets)
    weights = None
    if isinstance(result, tuple | list) and len(result) == 2:
        result, weights = result
        if isinstance(result, Tensor) and result.ndim == 0:
            raise ValueError(f"it returned a pair that begins with one number; {_EXPECTED}")
    shapes = _shapes(output, targets)
    if not isinstance(result, Tensor) or result.is_complex():
        kind = result.dtype if isinstance(result, Tensor) else type(result).__name__
        raise ValueError(f"it returned {kind}; {_EXPECTED}")
    if weights is None and result.ndim == 0:
        return SampleLosses(result.expand(samples), is_mean=True)
    if result.shape != (samples,):
        raise ValueError(
            f"it returned shape {[*result.shape]} for {shapes}; {_EXPECTED}"
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


def mean(loss: Loss, output: Tensor, targets: Tensor) -> Tensor:
    """Return the mean loss of a batch, weighted where it has weights; for training.

    Raises:
        ValueError: As `of_samples`.
        UsageError: If it has no gradient, although gradients are recorded.
    """
    result = of_samples(loss, output, targets).mean()
    if torch.is_grad_enabled() and not result.requires_grad:
        raise UsageError(
            "model.arch: the training loss has no gradient, so nothing can be trained; take "
            "no_grad(), inference_mode() or detach() out of forward and of the loss"
        )
    return result


_EXPECTED = "expected one number per sample, their mean, or a pair (numbers, weights)"


def hits(output: Tensor, targets: Tensor) -> Tensor:
    """Return which share of its labels each sample has right (N,), float64; 0 without labels.

    With classes on the second axis the largest output is the answer, of the first of several.
    Outputs of the shape of the targets, one number for each label of 0 or 1, answer 1 where they
    are positive: one logit, or one logit for each of several labels.

    Raises:
        ValueError: If output and targets are neither.
    """
    if output.ndim > 1 and output.shape[1] > 1 and output[:, 0].numel() == targets.numel():
        right = output.argmax(1) == targets.view_as(output[:, 0])
    elif output.numel() == targets.numel():
        right = (output > 0) == (targets.view_as(output) > 0)
    else:
        raise ValueError(
            _shapes(output, targets)
            + " do not say which answers are right"
            + axis_hint(output, targets)
        )
    right = right & (targets != NO_LABEL).view_as(right)
    if right.ndim == 1:
        return right.double()
    return right.double().flatten(1).sum(1) / labelled(targets).clamp(min=1)


def _per_sample(losses: Tensor) -> Tensor:
    return losses.flatten(1).mean(1) if losses.ndim > 1 else losses


def _shapes(output: Tensor, targets: Tensor) -> str:
    return f"outputs of shape {[*output.shape]} and targets of shape {[*targets.shape]}"


def axis_hint(output: Tensor, targets: Tensor) -> str:
    """Return what to do if an output (N, ..., K) has its classes on the last axis; else nothing."""
    if targets.ndim > 1 and output.shape[:-1] == targets.shape:
        return "; classes belong on the second axis: return output.movedim(-1, 1)"
    return ""


def shape_hint(output: Tensor, targets: Tensor, result: Tensor | None = None) -> str:
    """Return what to do where shapes make a loss another one than is meant; empty if none do."""
    if output.shape != targets.shape and output.numel() == targets.numel():
        return (
            f"; {_shapes(output, targets)} are broadcast against each other: use "
            "output.view_as(target)"
        )
    samples = len(targets)
    if result is not None and result.ndim and result.numel() and result.numel() % samples == 0:
        return "; take the mean over each sample's numbers: .reshape(len(target), -1).mean(1)"
    return ""
