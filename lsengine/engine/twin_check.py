"""A worker's values compared with those of the naive twin, before its first cell.

Shape suffix: N samples.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from lsengine.engine.messages import Probe, Twin
from lsengine.errors import LsengineError, UsageError
from lsengine.job import Job
from lsengine.models import checkpoint
from lsengine.objective import Objective

log = logging.getLogger(__name__)
_Values = Mapping[str, tuple[Tensor, Tensor | None]]


def compare_with_twin(
    job: Job,
    objective: Objective,
    twin: Twin,
    *,
    precision: str,
    cells_per_pass: int = 1,
    rank: int = 0,
) -> None:
    """Compare the objective's losses and hits at every point of the twin with its own.

    In a fast precision the losses are those in the precision of the weights: how far the others
    are off is measured, and recorded, by itself.

    Raises:
        UsageError: Where they differ by more than rounding, with the likely cause.
    """
    is_fast = precision not in ("float32", "float64")
    for probe in twin.probes:
        values_at = functools.partial(_values, job, objective, twin, probe)
        try:
            values = values_at(exact=is_fast, cells_per_pass=1 if is_fast else cells_per_pass)
        except LsengineError:
            raise
        except Exception as error:  # of the user's code; and so will the cells there
            log.info("no sample is compared at %s: %s", probe.describe(), error)
            continue
        for split, (losses, hits) in values.items():
            found, expected = losses.numpy(), probe.losses[split]
            if _differs(found, expected, probe.allowed[split]):
                cause = _cause(values_at, split, probe, found, rank)
                raise UsageError(
                    f"model.arch: the losses of {len(twin.samples[split])} {split} samples at "
                    f"{probe.describe()} are {_mean(found)}, and by a plain evaluation "
                    f"{_mean(expected)}; they may differ by {probe.allowed[split]:.2g}: {cause}"
                )
            if hits is not None and split in probe.hits:
                _compare_hits(hits.numpy(), probe, split)


def _values(
    job: Job,
    objective: Objective,
    twin: Twin,
    probe: Probe,
    *,
    exact: bool,
    cells_per_pass: int,
) -> _Values:
    fill: Callable[[nn.Module], None] | None = None
    if probe.checkpoint is not None:
        key = "trajectory.checkpoints"
        content = checkpoint.load(probe.checkpoint, key=key, spec=job.document.model)
        fill = functools.partial(checkpoint.fit, checkpoint=content, key=key)
    samples = {split: indices.tolist() for split, indices in twin.samples.items()}
    passes = 1 if fill is not None else cells_per_pass
    return objective.values_of_samples(
        samples, probe.cell, fill, exact=exact, cells_per_pass=passes
    )


def _cause(
    values_at: Callable[..., _Values],
    split: str,
    probe: Probe,
    found: NDArray[np.float64],
    rank: int,
) -> str:
    """Try what may be the cause, and say what is likely."""
    again = values_at(exact=True, cells_per_pass=1)[split][0].numpy()
    if not _differs(again, probe.losses[split], probe.allowed[split]):
        return "without fused layers they agree; please report this network"
    other = values_at(exact=True, cells_per_pass=1)[split][0].numpy()
    if _differs(again, other, probe.allowed[split]):
        return "they differ each time: is there noise that evaluation mode does not switch off?"
    if rank > 0:
        return (
            f"rank {rank} has another network than rank 0: it has a state that is not in the "
            "checkpoint (a random number, a file, the environment?)"
        )
    return (
        "the network does not bear it that its parameters lie in one vector: does it keep copies "
        "or views of them?"
    )


def _compare_hits(hits: NDArray[np.float64], probe: Probe, split: str) -> None:
    """Compare accuracies; where two answers are nearly alike, rounding may decide."""
    wrong = int(np.count_nonzero(hits != probe.hits[split]))
    if wrong > max(1, len(hits) // 4):
        raise UsageError(
            f"quantities: the accuracy of {len(hits)} {split} samples at {probe.describe()} is "
            f"{hits.mean():.4g}, and by a plain evaluation {probe.hits[split].mean():.4g}"
        )


def _differs(a: NDArray[np.float64], b: NDArray[np.float64], allowed: float) -> bool:
    if len(a) != len(b):  # a loss that is a mean on one side only
        return True
    with np.errstate(invalid="ignore"):
        is_same = (a == b) | (np.isnan(a) & np.isnan(b))
        return not bool((is_same | (np.abs(a - b) <= allowed)).all())


def _mean(values: NDArray[np.float64]) -> str:
    return f"{float(values.mean()):.6g} on average"
