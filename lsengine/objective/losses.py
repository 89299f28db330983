"""Losses: from a network's outputs to one number per sample."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor
from torch.nn import functional as F

from lsengine.external import user_code

Loss = Callable[[Tensor, Tensor], Tensor]


def loss_function(name: str, *, job_folder: Path) -> Loss:
    """Return the loss of a job: (N, ...) float64 outputs and targets to (N,) losses.

    It is ``cross_entropy``; ``mse`` (mean over outputs; integer targets are taken as one-hot
    vectors); or ``module:function``, called as ``function(output, target)``, which returns one
    loss per sample or their mean (then without an error bar).

    Raises:
        UsageError: If a ``module:function`` cannot be imported.
    """
    if name == "cross_entropy":
        return cross_entropy
    if name == "mse":
        return _mse
    return user_code.lookup(name, key="loss", job_folder=job_folder)


def cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """Return the cross entropy of every sample, classes on the second axis."""
    return F.cross_entropy(output, target, reduction="none")


def _mse(output: Tensor, target: Tensor) -> Tensor:
    if not target.is_floating_point():
        target = F.one_hot(target, output.shape[1]).to(output.dtype)
    return (output - target.view_as(output)).square()


def per_sample(loss: Tensor, samples: int) -> Tensor:
    """Reduce what a `Loss` has returned to one number per sample; a plain mean is everyone's.

    Raises:
        ValueError: If it is neither one number nor one per sample.
    """
    if loss.ndim == 0:
        return loss.expand(samples)
    if len(loss) != samples:
        raise ValueError(f"{len(loss)} losses for {samples} samples")
    return loss.flatten(1).mean(1) if loss.ndim > 1 else loss
