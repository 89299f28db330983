"""The built-in losses and answers by their definitions, for the naive twin; see `naive`.

Shape suffixes: N samples, P labels of each, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

_NONE = -100  # the label that stands for none


@dataclass(frozen=True, slots=True)
class NaiveLoss:
    """A loss with its options."""

    function: Callable[..., Any]
    options: Mapping[str, Any]

    def __call__(self, output: Any, target: Tensor) -> Any:
        """Return one number per sample (N,), or a pair: these, and their weights (N,)."""
        return self.function(output, target, **self.options)

    def hits(self, output: Any, target: Tensor) -> Tensor | None:
        """Return which share of its labels each sample has right (N,); None without answers."""
        kind, axis = self.options.get("kind"), self.options.get("class_axis")
        if kind is not None:
            output, target = _paired(output, target, kind)
            axis = {"next": "last", "last": "last", "second": "second"}.get(kind)
        return hits(output, target, axis)


def of_name(
    name: str, options: Mapping[str, Any], *, lacks_labels: bool = False, kind: str | None = None
) -> NaiveLoss:
    """Return a built-in loss with the options of a job, by its definition.

    ``kind`` is that of the network's own loss, where that is meant.
    """
    if name == "output":
        return NaiveLoss(reported, {"kind": kind, "lacks_labels": lacks_labels})
    given = {k: v for k, v in options.items() if k != "ignore_index"}
    if name in ("cross_entropy", "nll", "bce_with_logits"):
        given["lacks_labels"] = lacks_labels
    return NaiveLoss(_LOSSES[name], given)


def cross_entropy(output: Any, target: Tensor, label_smoothing: float = 0.0, **how: Any) -> Any:
    """Return -log softmax of the label, or of the labels' probabilities, by its definition.

    With smoothing a label has the probability 1 - s + s/K, and every other class s/K.
    """
    z_NPK, target = _by_position(output, target, how.get("class_axis"))
    top = z_NPK.max(2, keepdim=True).values
    logs_NPK = z_NPK - top - (z_NPK - top).exp().sum(2, keepdim=True).log()
    return _of_labels(logs_NPK, target, label_smoothing, **how)


def nll(output: Any, target: Tensor, **how: Any) -> Any:
    """Return minus the output of the label."""
    logs_NPK, target = _by_position(output, target, how.get("class_axis"))
    return _of_labels(logs_NPK, target, 0.0, **how)


def _of_labels(
    logs_NPK: Tensor,
    target: Tensor,
    smoothing: float,
    *,
    lacks_labels: bool = False,
    weight: list[float] | None = None,
    class_axis: str | None = None,
) -> Any:
    classes = logs_NPK.shape[2]
    weight_K = torch.tensor(weight or [1.0] * classes, dtype=torch.float64)
    of_all_NP = (logs_NPK * weight_K).sum(2) * (smoothing / classes)
    if target.is_floating_point():
        each_NP = -(1 - smoothing) * (logs_NPK * weight_K * target).sum(2) - of_all_NP
        return each_NP.mean(1)
    counts_NP = (target != _NONE).double()
    label_NP = target.clamp(min=0)
    of_label_NP = logs_NPK.gather(2, label_NP[:, :, None])[:, :, 0] * weight_K[label_NP]
    each_NP = (-(1 - smoothing) * of_label_NP - of_all_NP) * counts_NP
    if weight is None and not lacks_labels:
        return each_NP.mean(1)
    total_N = (counts_NP * weight_K[label_NP]).sum(1)
    return each_NP.sum(1) / total_N.where(total_N > 0, 1), total_N


def bce_with_logits(
    output: Any, target: Tensor, pos_weight: Any = 1.0, lacks_labels: bool = False
) -> Any:
    """Return -(w t log s + (1 - t) log (1 - s)) of s = 1 / (1 + exp(-output)), per sample."""
    x, t = _alike(output, target)
    w = torch.tensor(pos_weight, dtype=torch.float64)
    log_1p = (-x.abs()).exp().log1p()
    losses = w * t * (log_1p - x.clamp(max=0)) + (1 - t) * (log_1p + x.clamp(min=0))
    if not lacks_labels:
        return losses.mean(1)
    counts = (t != _NONE).double()
    number = counts.sum(1)
    return (losses * counts).sum(1) / number.where(number > 0, 1), number


def reported(output: Any, target: Tensor, kind: str | None, lacks_labels: bool = False) -> Any:
    """Return the number that the network returns; or of each sample the loss that it is of."""
    if kind is None:
        return output["loss"]
    logits, target = _paired(output, target, kind)
    if kind == "numbers":
        return mse(logits, target)
    if kind == "answers":
        return bce_with_logits(logits, target, lacks_labels=lacks_labels)
    axis = "second" if kind == "second" else "last"
    return cross_entropy(logits, target, class_axis=axis, lacks_labels=lacks_labels)


def _paired(output: Any, target: Tensor, kind: str) -> tuple[Any, Tensor]:
    """Return logits and labels; of tokens the logits that come before each label."""
    logits, tokens = _logits(output), target.shape[-1]
    if kind == "next":
        return logits.narrow(1, 0, tokens - 1), target.narrow(1, 1, tokens - 1)
    return logits, target


def mse(output: Any, target: Tensor) -> Tensor:
    """Return the mean squared difference of each sample's numbers."""
    x, t = _numbers(output, target)
    return (x - t).abs().pow(2).mean(1)


def l1(output: Any, target: Tensor) -> Tensor:
    """Return the mean distance of each sample's numbers."""
    x, t = _numbers(output, target)
    return (x - t).abs().mean(1)


def huber(output: Any, target: Tensor, delta: float = 1.0) -> Tensor:
    """Return the mean of d^2 / 2 for distances d up to delta, and delta (d - delta / 2) beyond."""
    x, t = _numbers(output, target)
    d = (x - t).abs()
    return d.square().div(2).where(d <= delta, delta * (d - delta / 2)).mean(1)


_LOSSES: Mapping[str, Callable[..., Any]] = {
    "cross_entropy": cross_entropy,
    "nll": nll,
    "bce_with_logits": bce_with_logits,
    "mse": mse,
    "l1": l1,
    "huber": huber,
}


def answers_of(loss: Any) -> Callable[[Any, Tensor], Tensor | None]:
    """Return what tells the `hits` of a batch for a loss, of one's own or not."""
    if isinstance(loss, NaiveLoss):
        return loss.hits
    return partial(hits, class_axis=getattr(loss, "class_axis", None))


def hits(output: Any, y: Tensor, class_axis: str | None = None) -> Tensor | None:
    """Return which share of its labels each sample has right (N,); None without answers."""
    output = _logits(output)
    if not isinstance(output, Tensor) or not isinstance(y, Tensor):
        return None
    if y.is_floating_point() or y.is_complex() or output.is_complex():
        return None
    axis = _axis(output, y, class_axis)
    if axis is not None:
        right: Tensor = output.max(axis).indices.reshape(y.shape) == y
    elif output.numel() == y.numel():
        right = (output.reshape(y.shape) > 0).long() == y
    else:
        return None
    has_label = (y != _NONE).double().reshape(len(y), -1)
    right = right.double().reshape(len(y), -1) * has_label
    return right.sum(1) / has_label.sum(1).clamp(min=1)


def _logits(output: Any) -> Any:
    return output.get("logits") if isinstance(output, dict) else output


def _axis(output: Tensor, target: Tensor, class_axis: str | None) -> int | None:
    if class_axis is not None:
        return {"second": 1, "last": -1}[class_axis]
    for axis in (1, -1):
        if output.ndim > 1 and output.shape[axis] > 1:
            others = output.movedim(axis, 1)[:, 0]
            if others.squeeze().shape == target.squeeze().shape:
                return axis
    is_several = output.ndim > 1 and output.shape[1] > 1
    return 1 if is_several and output[:, 0].numel() == target.numel() else None


def _by_position(output: Any, target: Tensor, class_axis: str | None) -> tuple[Tensor, Tensor]:
    """Return outputs (N, P, K), and labels (N, P) or probabilities (N, P, K)."""
    output = _logits(output)
    if target.is_floating_point():
        axis = -1 if class_axis == "last" else 1
        target = target.movedim(axis, -1)
    else:
        axis = _axis(output, target, class_axis) or 1
    moved = output.movedim(axis, -1)
    z_NPK = moved.reshape(len(output), -1, moved.shape[-1])
    return z_NPK, target.reshape(z_NPK.shape if target.is_floating_point() else z_NPK.shape[:2])


def _alike(output: Any, target: Tensor) -> tuple[Tensor, Tensor]:
    return _logits(output).reshape(len(target), -1), target.reshape(len(target), -1)


def _numbers(output: Any, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return outputs and targets, classes as one-hot vectors."""
    if not target.is_floating_point() and not target.is_complex() and target.ndim == 1:
        target = torch.eye(_logits(output).shape[1], dtype=torch.float64)[target]
    return _alike(output, target)
