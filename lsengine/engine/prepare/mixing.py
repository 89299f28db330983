"""Whether what a network or a loss makes of a sample depends on the rest of its batch.

Shape suffix: N samples.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lsengine.errors import UsageError
from lsengine.job import Job
from lsengine.objective import naive
from lsengine.objective.losses import shape_hint

log = logging.getLogger(__name__)
Loss = Callable[[Tensor, Tensor], Any]
_LOSS_ROUNDING = 1e-4  # of a loss by itself, which may compute in float32


def refuse_dependent_outputs(job: Job, split: str, sizes: Sequence[int], where: str) -> None:
    """Refuse outputs that depend on the rest of the batch, unless its size is given."""
    if job.document.batch_size == "auto":
        raise UsageError(
            f"model.arch: its outputs for {sum(sizes)} {split} samples are others in batches of "
            f"{' and '.join(map(str, sizes))}{where}: a sample's output depends on the rest of its "
            "batch (statistics of the batch in evaluation mode?); if that is meant, say "
            "batch_size in the job"
        )
    log.warning(
        "model.arch: a sample's output depends on the rest of its batch; the losses are those of "
        "batch_size: %d",
        job.document.batch_size,
    )


def refusal_of_dependence(
    job: Job, split: str, whole: naive.Values, pieces: naive.Values, sizes: Sequence[int]
) -> UsageError:
    """Return the refusal of an objective that depends on the batch, of which no size is given."""
    return UsageError(
        f"objective: {job.document.objective} makes of {sum(sizes)} {split} samples "
        f"{whole.loss:.6g} at once and {pieces.loss:.6g} in batches of "
        f"{' and '.join(map(str, sizes))}, or other metrics: what it makes of a sample depends on "
        "the rest of its batch (a contrastive loss, statistics of the batch); if that is meant, "
        "say batch_size in the job: batches are then those of the data's order, and part of what "
        "the surface is of"
    )


def refuse_no_mean(
    job: Job,
    split: str,
    whole: naive.Values,
    pieces: naive.Values,
    y_N: Tensor,
    loss: Loss,
    *,
    sizes: str,
    allowed: float,
    of: str = "",
) -> None:
    """Refuse a loss of some samples at once that is not the mean of those of batches."""
    if naive.apart(whole, pieces) <= allowed:
        return
    raise UsageError(
        f"loss: {job.document.loss_spec.name} of {of}{len(whole.outputs)} {split} samples is "
        f"{whole.loss:.6g} at once and {pieces.loss:.6g} in batches of {sizes}, so it is not a "
        "mean over samples; return one number per sample, or a pair (numbers, weights) for a "
        f"weighted mean{_shape_hint(whole.outputs, y_N, loss)}"
    )


def _shape_hint(outputs_N: Tensor, y_N: Tensor, loss: Loss) -> str:
    """Return what to do if targets are broadcast: the loss is another where they cannot be."""
    try:
        as_is, alike = (
            naive.values_of([(o, y_N)], loss).loss
            for o in (outputs_N, outputs_N.reshape(y_N.shape))
        )
    except Exception:  # the loss takes them apart itself
        return ""
    is_another = abs(as_is - alike) > _LOSS_ROUNDING * abs(as_is)
    return shape_hint(outputs_N, y_N) if is_another else ""


def refuse_no_mean_of_others(
    job: Job,
    split: str,
    outputs_N: Tensor,
    y_N: Tensor,
    loss: Loss,
    sizes: Sequence[int],
) -> None:
    """Refuse a loss that is no mean over outputs which differ more than a network's.

    A network that gives nearly the same for all samples shows little of its loss.  The outputs are
    multiplied by numbers between a half and one, so that probabilities stay some.  A loss that
    does not take them is not refused.
    """
    generator = np.random.default_rng(job.document.seed)
    factors_N = torch.from_numpy(generator.uniform(0.5, 1.0, [*outputs_N.shape]))
    as_it_is = naive.NaiveNetwork(nn.Identity)
    try:
        whole, pieces = (
            as_it_is.evaluate(outputs_N * factors_N, y_N, loss, part)
            for part in ([len(outputs_N)], sizes)
        )
    except Exception:
        return
    cut, allowed = " and ".join(map(str, sizes)), _LOSS_ROUNDING * naive.largest(whole.losses)
    of = "varied outputs for "
    refuse_no_mean(job, split, whole, pieces, y_N, loss, sizes=cut, allowed=allowed, of=of)
