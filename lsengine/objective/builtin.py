"""The built-in losses: one number per sample, and how much it counts where not all count alike.

Each is what torch's function of the same name means by ``reduction="mean"`` over a whole split,
whatever the batches.

Shape suffixes: N samples, K classes or outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lsengine.data.dataset import NO_LABEL
from lsengine.errors import UsageError
from lsengine.geometry.parameters import as_real
from lsengine.objective.classes import ClassAxis, class_axis, have_same_places, shapes
from lsengine.objective.outputs import logits_of

Weighted = Tensor | tuple[Tensor, Tensor]
"""One number per sample (N,), or a pair of them and of their weights (N,)."""


def of_name(name: str, options: Mapping[str, Any], *, lacks_labels: bool) -> Any:
    """Return a built-in loss; the options are those of a job but ``ignore_index``.

    With ``lacks_labels`` some targets are `NO_LABEL`, and count nowhere.

    Raises:
        UsageError: If the loss has no labels that could be lacking.
    """
    options = {k: v for k, v in options.items() if k != "ignore_index"}
    if name in ("cross_entropy", "nll"):
        if name == "cross_entropy" and not options and not lacks_labels:
            return cross_entropy
        return OfClasses(name, lacks_labels=lacks_labels, **options)
    if name == "bce_with_logits":
        return OfAnswers(lacks_labels=lacks_labels, **options)
    if lacks_labels:
        raise UsageError(f"loss: {name} has no labels of {NO_LABEL}; use a loss of your own")
    if name == "huber":
        return lambda output, target: huber(output, target, **options)
    return {"mse": mse, "l1": l1}[name]


def cross_entropy(output: Any, target: Tensor) -> Tensor:
    """Return the cross entropy of every sample (N,), the mean over its labels."""
    rows, labels = _rows(output, target, None)
    return _per_sample(F.cross_entropy(rows, labels, reduction="none"), len(target))


class OfClasses:
    """``cross_entropy`` or ``nll`` with options, of class labels or, the first, probabilities.

    Args:
        weight: Of each class (K,).  A label counts by that of its class.
        label_smoothing: From 0 to 1, as in torch.
        class_axis: Where the classes are, if shapes do not tell.
    """

    def __init__(
        self,
        name: str,
        *,
        lacks_labels: bool = False,
        weight: list[float] | None = None,
        label_smoothing: float = 0.0,
        class_axis: ClassAxis | None = None,
    ) -> None:
        self.class_axis, self._lacks_labels = class_axis, lacks_labels
        self._weight = None if weight is None else _Constant(weight)
        self._takes_logs, self._smoothing = name == "nll", label_smoothing

    def __call__(self, output: Any, target: Tensor) -> Weighted:
        """Return the mean over the labels of each sample, and by their weights what they weigh."""
        rows, labels = _rows(output, target, self.class_axis)
        weight_K = None if self._weight is None else self._weight.like(rows)
        if weight_K is not None and len(weight_K) != rows.shape[1]:
            raise ValueError(f"weight has {len(weight_K)} values for {rows.shape[1]} classes")
        each = self._each(rows, labels, weight_K)
        if labels.is_floating_point() or (weight_K is None and not self._lacks_labels):
            return _per_sample(each, len(target))
        counts = (labels != NO_LABEL).to(each.dtype)
        if weight_K is not None:
            counts = counts * weight_K[labels.clamp(min=0)]
        return _weighted(each, counts, len(target))

    def _each(self, rows: Tensor, labels: Tensor, weight_K: Tensor | None) -> Tensor:
        how: dict[str, Any] = {"weight": weight_K, "reduction": "none"}
        if not labels.is_floating_point():
            how["ignore_index"] = NO_LABEL
        if not self._takes_logs:
            return F.cross_entropy(rows, labels, label_smoothing=self._smoothing, **how)
        if labels.is_floating_point():
            raise ValueError("nll needs integer labels; use cross_entropy, which takes logits")
        return F.nll_loss(rows, labels, **how)


class OfAnswers:
    """``bce_with_logits``: of targets from 0 to 1, one for every output.

    Args:
        pos_weight: What answers of 1 count, of all outputs or of each (K,).
    """

    class_axis: ClassAxis | None = None

    def __init__(
        self, *, lacks_labels: bool = False, pos_weight: float | list[float] | None = None
    ) -> None:
        self._lacks_labels = lacks_labels
        self._pos_weight = None if pos_weight is None else _Constant(pos_weight)

    def __call__(self, output: Any, target: Tensor) -> Weighted:
        """Return the mean over the outputs of each sample, and how many count if not all do."""
        logits = logits_of(output)
        target = _like(logits, target)
        weight = None if self._pos_weight is None else self._pos_weight.like(logits)
        if weight is not None and weight.ndim and logits.shape[1:] != weight.shape:
            raise ValueError(f"pos_weight has {len(weight)} values; expected one, or one an output")
        has_label = target != NO_LABEL
        each = F.binary_cross_entropy_with_logits(
            logits, target.where(has_label, 0).to(logits.dtype), pos_weight=weight, reduction="none"
        )
        if not self._lacks_labels:
            return _per_sample(each, len(target))
        return _weighted(each * has_label, has_label.to(each.dtype), len(target))


def mse(output: Any, target: Tensor) -> Tensor:
    """Return the squared error of every sample (N,), the mean over its outputs.

    Integer targets (N,) are taken as one-hot vectors.

    Raises:
        ValueError: If output and targets have not as many numbers per sample.
    """
    output, target = _numbers(output, target)
    square = as_real(output - target).square()  # of real and imaginary parts
    is_complex = output.is_complex() or target.is_complex()
    return _per_sample(square.sum(-1) if is_complex else square, len(target))


def l1(output: Any, target: Tensor) -> Tensor:
    """Return the absolute error of every sample (N,), the mean over its outputs; as `mse`."""
    output, target = _numbers(output, target)
    return _per_sample((output - target).abs(), len(target))


def huber(output: Any, target: Tensor, delta: float = 1.0) -> Tensor:
    """Return Huber's loss of every sample (N,), the mean over its outputs; as `mse`."""
    output, target = _numbers(output, target)
    if output.is_complex() or target.is_complex():
        raise ValueError("huber needs real numbers; use mse or l1")
    # Not torch's function, which has no derivative in the forward mode that products take.
    distance = (output - target).abs()
    bounded = distance.clamp(max=delta)
    return _per_sample(bounded * (distance - bounded / 2), len(target))


class _Constant:
    """Numbers of a job, kept on every device where they have been used."""

    def __init__(self, values: float | list[float]) -> None:
        self._host = torch.tensor(values, dtype=torch.float64)
        self._kept: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def like(self, tensor: Tensor) -> Tensor:
        place = tensor.device, tensor.dtype
        if place not in self._kept:
            with torch.inference_mode(False):
                self._kept[place] = self._host.to(tensor.dtype).to(tensor.device)
        return self._kept[place]


def _rows(output: Any, target: Tensor, wanted: ClassAxis | None) -> tuple[Tensor, Tensor]:
    """Return outputs with K classes on the second axis, and their labels or probabilities."""
    logits = logits_of(output)
    if target.is_floating_point():
        if wanted == "last":
            logits, target = logits.flatten(0, -2), target.flatten(0, -2)
        return logits, target.to(logits.dtype)
    has_one = target.numel() == len(target)
    if has_one and logits.ndim > 1 and logits[:, 0].numel() == len(target) and wanted != "last":
        return logits.flatten(1), target.flatten()
    axis = class_axis(logits, target, wanted)
    if axis == -1:
        return logits.flatten(0, -2), target.flatten()
    return logits, target if axis is None else target.reshape(logits[:, 0].shape)


def _numbers(output: Any, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return outputs, and targets of the same shape."""
    output = logits_of(output)
    if not (target.is_floating_point() or target.is_complex()) and target.ndim == 1:
        target = F.one_hot(target, output.shape[1]).to(output.dtype)
    return output, _like(output, target)


def _like(output: Tensor, target: Tensor) -> Tensor:
    """Return targets in the shape of outputs: (N,) as (N, 1), (N, K) as (N, K, 1, 1), or flat."""
    if target.shape == output.shape:
        return target
    if target[:1].numel() != output[:1].numel() or len(target) != len(output):
        raise ValueError(shapes(output, target) + " have not as many numbers per sample")
    if not have_same_places(output, target):
        raise ValueError(
            f"{shapes(output, target)} have as many numbers in other places (rows and columns "
            "transposed?); store the targets in the shape of the outputs"
        )
    return target.view_as(output)


def _per_sample(each: Tensor, samples: int) -> Tensor:
    """Return the mean over the numbers of each sample."""
    return each.reshape(samples) if each.numel() == samples else each.reshape(samples, -1).mean(1)


def _weighted(each: Tensor, counts: Tensor, samples: int) -> tuple[Tensor, Tensor]:
    """Return the mean over what counts in each sample, and how much that is together."""
    total = counts.reshape(samples, -1).sum(1)
    return each.reshape(samples, -1).sum(1) / total.where(total > 0, 1), total
