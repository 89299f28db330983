"""Losses: from a network's outputs to one number per sample."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lsengine import data as datasets
from lsengine.errors import UsageError
from lsengine.external import user_code
from lsengine.models import check_model_accepts

Loss = Callable[[Tensor, Tensor], Tensor]


def loss_function(name: str, *, job_folder: Path) -> Loss:
    """Return the loss of a job: (N, ...) float64 outputs and targets to (N,) losses.

    Args:
        name: ``cross_entropy``; ``mse`` (mean over outputs; integer targets are taken as
            one-hot vectors); or ``module:function``, called as ``function(output, target)``,
            which returns one loss per sample or their mean (then without an error bar).
        job_folder: Folder of the job file, searched after PYTHONPATH.

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
    """Reduce a loss to one number per sample; a plain mean is everyone's.

    Args:
        loss: What a `Loss` has returned.
        samples: How many samples it was of.

    Raises:
        ValueError: If it is neither one number nor one per sample.
    """
    if loss.ndim == 0:
        return loss.expand(samples)
    if len(loss) != samples:
        raise ValueError(f"{len(loss)} losses for {samples} samples")
    return loss.flatten(1).mean(1) if loss.ndim > 1 else loss


def _are_classes(targets: Tensor) -> bool:
    if not targets.is_floating_point():
        return True
    if targets.ndim < 2 or not bool((targets >= 0).all()):
        return False
    return bool(((targets.sum(1) - 1).abs() < 1e-4).all())


def check_loss_accepts(model: nn.Module, dataset: datasets.Dataset, loss: Loss, name: str) -> None:
    """Run two samples through model and loss, so that misfits show before any work.

    Args:
        model: The network, on the CPU.
        dataset: The data it is evaluated on.
        loss: From `loss_function`.
        name: What the job calls the loss, for messages.

    Raises:
        UsageError: If the network does not take the data, or the loss its output.
    """
    split = next(iter(dataset.splits))
    if name == "cross_entropy" and not _are_classes(dataset.splits[split].y):
        raise UsageError(
            "loss: cross_entropy needs integer labels, or a probability for every class; these "
            "targets are other real numbers; use mse or a loss of your own"
        )
    inputs = datasets.normalized(dataset, split, torch.float32)[:2]
    targets = dataset.splits[split].y[:2]
    check_model_accepts(model, inputs, dataset.classes)
    try:
        with torch.inference_mode():
            output = model.eval()(inputs).double()
            targets = targets.double() if targets.is_floating_point() else targets
            both = loss(output, targets)
            one_by_one = [loss(output[i : i + 1], targets[i : i + 1]) for i in range(len(targets))]
            per_sample(both, len(targets))
    except Exception as error:
        raise UsageError(
            f"loss: {name} refuses the network's output of shape {[*output.shape]} with targets "
            f"of shape {[*targets.shape]}: {type(error).__name__}: {error}"
        ) from error
    mean = torch.stack([one.double().mean() for one in one_by_one]).mean()
    if both.ndim == 0 and not torch.isclose(both.double(), mean, rtol=1e-4, equal_nan=True):
        raise UsageError(
            f"loss: {name} returns one number, {float(both):.6g}, which is not the mean of the "
            f"samples' own losses ({float(mean):.6g}); return one loss per sample, or their mean"
        )
