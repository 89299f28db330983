"""Whether network, data and loss go together, tried before any work."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lsengine import data
from lsengine.errors import UsageError
from lsengine.models import check_model_accepts
from lsengine.objective.losses import Loss, per_sample


def check_loss_accepts(model: nn.Module, dataset: data.Dataset, loss: Loss, name: str) -> None:
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
    inputs = data.normalized(dataset, split, torch.float32)[:2]
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


def _are_classes(targets: Tensor) -> bool:
    if not targets.is_floating_point():
        return True
    if targets.ndim < 2 or not bool((targets >= 0).all()):
        return False
    return bool(((targets.sum(1) - 1).abs() < 1e-4).all())
