"""A worker's values compared with those of the naive twin, before its first cell.

Shape suffix: N samples.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lsengine import models
from lsengine.engine.messages import Probe, Twin
from lsengine.engine.prepare.loading import Loaded
from lsengine.engine.prepare.twin import plain_losses
from lsengine.errors import LsengineError, Stopped, UsageError
from lsengine.geometry.parameters import as_real, real_dtype
from lsengine.job import Job
from lsengine.models import checkpoint
from lsengine.objective import Objective
from lsengine.objective.forward import COMPILED, ForwardPass, copied, in_row_major
from lsengine.objective.judging import SampleValues

log = logging.getLogger(__name__)
_Values = Mapping[str, SampleValues]


def compare_with_twin(
    job: Job,
    objective: Objective,
    twin: Twin,
    *,
    loaded: Loaded,
    precision: str,
    cells_per_pass: int = 1,
    rank: int = 0,
) -> None:
    """Compare the objective's losses and hits at every point of the twin with its own.

    In a fast precision the losses are those in the precision of the weights: how far the others
    are off is measured, and recorded, by itself.  ``loaded`` has the data.

    Raises:
        UsageError: Where they differ by more than rounding, with the cause as far as it is found.
    """
    is_fast = precision not in ("float32", "float64")
    passes = 1 if is_fast else cells_per_pass
    for number, probe in enumerate(twin.probes):
        values_at = functools.partial(_values, job, objective, twin, probe)
        try:
            values = values_at(exact=is_fast, cells_per_pass=passes)
        except LsengineError:
            raise
        except Exception as error:  # of the user's code; and so will the cells there
            log.info("no sample is compared at %s: %s", probe.describe(), error)
            continue
        for split, (losses, hits, metrics) in values.items():
            found, expected = losses.numpy(), probe.losses[split]
            if _differs(found, expected, probe.allowed[split]):
                search = _Search(
                    job=job,
                    loaded=loaded,
                    twin=twin,
                    number=number,
                    split=split,
                    values_at=values_at,
                    forward=objective.forward,
                )
                raise UsageError(
                    f"model.arch: the losses of {len(twin.samples[split])} {split} samples at "
                    f"{probe.describe()} are {_mean(found)}, and by a plain evaluation "
                    f"{_mean(expected)}; they may differ by {probe.allowed[split]:.2g}: "
                    f"{search.cause(passes, rank)}"
                )
            if hits is not None and split in probe.hits:
                _compare_hits(hits.numpy(), probe, split)
            _compare_metrics(job, metrics, probe, split)


def _values(job: Job, objective: Objective, twin: Twin, probe: Probe, **how: Any) -> _Values:
    """Return values at a point, ``how`` as `Objective.values_of_samples` takes it."""
    fill: Callable[[nn.Module], None] | None = None
    if probe.checkpoint is not None:
        key = "trajectory.checkpoints"
        content = checkpoint.load(probe.checkpoint, key=key, spec=job.document.model)
        fill = functools.partial(checkpoint.fit, checkpoint=content, key=key)
        how = {**how, "cells_per_pass": 1}
    samples = {split: indices.tolist() for split, indices in twin.samples.items()}
    return objective.values_of_samples(samples, probe.cell, fill, **how)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Search:
    """Looks for the cause of other losses, by one trial for each that may be.

    Attributes:
        number: Of the probe at which they differ; before it they agree.
        values_at: Gives the objective's values there, in another manner.
        forward: How the objective computes losses, in words.
    """

    job: Job
    loaded: Loaded
    twin: Twin
    number: int
    split: str
    values_at: Callable[..., _Values]
    forward: str

    def cause(self, cells_per_pass: int, rank: int) -> str:
        """Return the cause in words: what a trial has shown, or what may be."""
        trials = [self._of_fusion, self._of_noise, self._of_batches, self._of_layout]
        trials += [functools.partial(self._of_rank, rank), self._of_numbers]
        if cells_per_pass > 1:
            trials.insert(0, functools.partial(self._of_groups, cells_per_pass))
        for trial in trials:
            try:
                if found := trial():
                    return found
            except Stopped:
                raise
            except Exception as error:  # it is not known to run in that manner
                log.info("no cause is found by %s: %s", trial, error)
        return "perhaps the network keeps something from one evaluation to the next"

    def _losses(self, **how: Any) -> NDArray[np.float64]:
        return self.values_at(**how)[self.split][0].numpy()

    def _is_right(self, losses: NDArray[np.float64]) -> bool:
        return self._are_same(losses, self.twin.probes[self.number].losses[self.split])

    def _are_same(self, a: NDArray[np.float64], b: NDArray[np.float64]) -> bool:
        return not _differs(a, b, self.twin.probes[self.number].allowed[self.split])

    def _of_groups(self, cells: int) -> str:
        if not self._is_right(self._losses()):
            return ""
        return f"{cells} cells are evaluated at once; one by one they agree: use cells_per_pass: 1"

    def _of_fusion(self) -> str:
        if not self._is_right(self._losses(exact=True)):
            return ""
        kinds = {"fused": "fused layers", COMPILED: "compile"}
        kind = self.forward.partition(" ")[0]  # on CUDA the kernels follow
        what = kinds.get(kind, "a pass of its own")
        return f"without {what} they agree; please report this network"

    def _of_noise(self) -> str:
        if self._are_same(*(self._losses(exact=True) for _ in range(2))):
            return ""
        before, after = self._numbers(), self._numbers()
        for name, tensor in before.items():
            if not torch.equal(tensor.nan_to_num(), after[name].nan_to_num()):
                return f"they differ each time, as {name} does, which is measured or written anew"
        return "they differ each time: is there noise that evaluation mode does not switch off?"

    def _of_batches(self) -> str:
        if not self._is_right(self._losses(exact=True, batch_size=1)):
            return ""
        return "in batches of one sample they agree: they depend on the rest of the batch"

    def _of_layout(self) -> str:
        numbers = self._numbers().values()
        if all(tensor.is_contiguous() for tensor in numbers):
            return ""
        row_major = functools.partial(in_row_major, dtype=real_dtype(numbers))
        if not self._is_right(self._losses(remade=row_major)):
            return ""
        if self._is_right(self._losses(remade=lambda model: ForwardPass(copied(model)))):
            return ""  # any copy does it
        return "in row-major order they agree, in channels-last order they do not"

    def _of_rank(self, rank: int) -> str:
        """Compare the network that this process makes with that of rank 0, at the centre."""
        made, _ = self._plain_losses()
        expected = self.twin.probes[0].losses[self.split]
        if rank == 0 or self._are_same(made.numpy(), expected):
            return ""
        return (
            f"rank {rank} has another network than rank 0: it has a state that is not in the "
            "checkpoint (a random number, a file, the environment?)"
        )

    def _plain_losses(
        self, numbers: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        of_split = self.twin.of_split
        return plain_losses(self.job, self.loaded, self.split, numbers, of_split=of_split)

    def _of_numbers(self) -> str:
        """Compare with a network made here that has the numbers of the objective's."""
        numbers = self._numbers()
        made = self._plain_losses(numbers)[0].numpy()
        if self._is_right(made):
            return (
                "a network made anew agrees with the same parameters; perhaps the other keeps "
                "copies or views of them"
            )
        if not self._are_same(made, self._losses(exact=True)):
            return ""
        if self.number:
            return "its numbers there are others than the twin's; please report this job"
        return self._of_others(numbers)

    def _of_others(self, numbers: Mapping[str, Tensor]) -> str:
        """Name the first of the network's numbers at the centre that is another one."""
        _, own = self._plain_losses()
        statistics = models.batch_norm_buffers(self.loaded.model)
        for name, tensor in numbers.items():
            ours, theirs = (as_real(t.detach()).double().cpu() for t in (tensor, own[name]))
            if _are_close(ours, theirs):
                continue
            if name in statistics and self.job.document.batch_norm.policy == "recalibrated":
                return f"{name} is not the statistic of the first batch (recalibration)"
            if _are_close(*(t.flatten().sort().values for t in (ours, theirs))):
                return f"the numbers of {name} are in another order (layout)"
            return f"{name} is not the checkpoint's after the cast to {tensor.dtype}"
        return ""

    def _numbers(self) -> dict[str, Tensor]:
        """Return copies of the numbers that the objective's network has there, by name."""
        numbers: dict[str, Tensor] = {}

        def kept(model: nn.Module) -> ForwardPass:
            named = [*model.named_parameters(), *model.named_buffers()]
            numbers.update({name: tensor.detach().clone() for name, tensor in named})
            return ForwardPass(model)

        self._losses(remade=kept)
        return numbers


def _compare_hits(hits: NDArray[np.float64], probe: Probe, split: str) -> None:
    """Compare accuracies; where two answers are nearly alike, rounding may decide."""
    wrong = int(np.count_nonzero(hits != probe.hits[split]))
    if wrong > max(1, len(hits) // 4):
        raise UsageError(
            f"quantities: the accuracy of {len(hits)} {split} samples at {probe.describe()} is "
            f"{hits.mean():.4g}, and by a plain evaluation {probe.hits[split].mean():.4g}"
        )


def _compare_metrics(job: Job, found: Mapping[str, Tensor], probe: Probe, split: str) -> None:
    """Compare what an objective makes besides its loss.

    Where a metric is whole numbers, or parts of a summary, rounding may decide about a few samples.
    """
    expected = probe.metrics.get(split, {})
    if found.keys() != expected.keys():
        raise UsageError(
            f"objective: {job.document.objective} returns {', '.join(found) or 'no metric'} here, "
            f"and {', '.join(expected) or 'no metric'} on rank 0"
        )
    for name, (values, allowed) in expected.items():
        ours = found[name].numpy()
        rows = zip(ours.reshape(len(ours), -1), values.reshape(len(values), -1), strict=True)
        wrong = sum(_differs(a, b, allowed) for a, b in rows)
        is_stepped = values.ndim > 1 or np.array_equal(values, np.round(values))
        if wrong > (max(1, len(values) // 4) if is_stepped else 0):
            raise UsageError(
                f'objective: the metric "{name}" of {len(values)} {split} samples at '
                f"{probe.describe()} is {_mean(ours)}, and by a plain evaluation {_mean(values)}; "
                f"{wrong} samples differ by more than {allowed:.2g}: does it keep something from "
                "one call to the next, or depend on the rest of the batch?"
            )


def _differs(a: NDArray[np.float64], b: NDArray[np.float64], allowed: float) -> bool:
    if len(a) != len(b):  # a loss that is a mean on one side only
        return True
    with np.errstate(invalid="ignore"):
        is_same = (a == b) | (np.isnan(a) & np.isnan(b))
        return not bool((is_same | (np.abs(a - b) <= allowed)).all())


def _are_close(a: Tensor, b: Tensor) -> bool:
    largest = float(b.abs().nan_to_num(posinf=0).max()) if b.numel() else 0.0
    return torch.allclose(a, b, rtol=0, atol=1e-4 * largest, equal_nan=True)


def _mean(values: NDArray[np.float64]) -> str:
    return f"{float(values.mean()):.6g} on average"
