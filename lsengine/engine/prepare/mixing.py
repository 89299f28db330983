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

from lsengine import devices
from lsengine.errors import UsageError
from lsengine.job import Job
from lsengine.job.direction_types import HessianDirection
from lsengine.log import NOTICE
from lsengine.objective import naive
from lsengine.objective.losses import shape_hint

log = logging.getLogger(__name__)
Loss = Callable[[Tensor, Tensor], Any]
_SHARE = 4  # of what is free a quarter may be for the outputs of a split
_LOSS_ROUNDING = 1e-4  # of a loss by itself, which may compute in float32


class NoMeanError(UsageError):
    """A loss is one number for a batch and no mean over samples, but can be taken of a split.

    It is the same for samples that are all there twice, as a weighted mean or the root of a mean
    is, and a sum is not.

    Attributes:
        numbers: Of each sample's output.
    """

    def __init__(self, message: str, numbers: int = 0) -> None:
        super().__init__(message)
        self.numbers = numbers


def take_at_once(job: Job, samples: int, error: NoMeanError) -> None:
    """Say that the loss is taken of all outputs of a split at once, unless that cannot be.

    ``samples`` are those of the largest split.

    Raises:
        UsageError: If batches are needed, for Hessians, or memory for all outputs.
    """
    along = any(isinstance(spec, HessianDirection) for spec in job.directions.values())
    if along or "curvature" in job.document.quantities:
        raise UsageError(f"{error}; products with Hessians need that") from None
    needed = 8 * samples * error.numbers
    if needed > devices.free_host_bytes() // _SHARE:
        raise UsageError(
            f"{error}; it could be taken of all {samples:,} outputs of a split at once, but they "
            f"are {needed / 2**30:.3g} GiB"
        ) from None
    name = job.document.loss_spec.name
    log.log(NOTICE, f"loss: {name} is no mean over samples; it is taken of each split at once")


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
    """Refuse a loss of some samples at once that is not the mean of those of batches.

    Raises:
        NoMeanError: If it can be taken of all samples of a split at once.
        UsageError: If not.
    """
    if naive.apart(whole, pieces) <= allowed:
        return
    hint = _shape_hint(whole.outputs, y_N, loss)
    can_be = not hint and job.document.loss_spec.is_own and _is_same_twice(whole, y_N, loss)
    message = (
        f"loss: {job.document.loss_spec.name} of {of}{len(whole.outputs)} {split} samples is "
        f"{whole.loss:.6g} at once and {pieces.loss:.6g} in batches of {sizes}, so it is not a "
        "mean over samples; return one number per sample, or a pair (numbers, weights) for a "
        f"weighted mean{hint}"
    )
    raise NoMeanError(message, whole.outputs[0].numel()) if can_be else UsageError(message)


def _is_same_twice(whole: naive.Values, y_N: Tensor, loss: Loss) -> bool:
    """Whether a loss is one number, and the same one if all samples are there twice."""
    if whole.losses.numel() != 1 or whole.is_nested or not len(whole.outputs):
        return False

    def loss_of(times: int) -> float:
        output, target = (t.repeat_interleave(times, 0) for t in (whole.outputs, y_N))
        return naive.values_of([(output, target)], loss).loss

    return abs(loss_of(2) - loss_of(1)) <= _LOSS_ROUNDING * abs(loss_of(1))


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
