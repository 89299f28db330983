"""Values of the twin's samples by a naive network: by a loss of its outputs, or an objective.

Shape suffix: N samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lsengine import devices, models
from lsengine.data.nesting import Nested, mapped
from lsengine.engine.prepare import mixing, twin_samples
from lsengine.engine.prepare.loading import Loaded, criterion_of
from lsengine.errors import Stopped, UsageError
from lsengine.job import Job
from lsengine.objective import naive, naive_losses
from lsengine.objective.criterion import OwnObjective


class CannotEvaluateError(UsageError):
    """The network, the loss or the objective raises something."""


class TwinValues:
    """What naive networks make of a few samples of every split.

    ``tick`` is called now and then and may raise to stop.

    Attributes:
        samples: Indices by split, (N,); whole batches once `check_batches` has found them needed.
        own: The job's objective; None where it has a loss.
        of_split: Whether the loss is taken of all samples at once, whatever the batches.
    """

    def __init__(
        self,
        job: Job,
        loaded: Loaded,
        native: nn.Module,
        tick: Callable[[], None],
        *,
        of_split: bool = False,
    ) -> None:
        self._job, self._loaded, self._tick, self.of_split = job, loaded, tick, of_split
        dataset = loaded.dataset
        self.samples = {n: twin_samples.draw(job, n, dataset, loaded.model) for n in dataset.splits}
        criterion = criterion_of(job, dataset)
        self._criterion = criterion
        self.own = criterion if isinstance(criterion, OwnObjective) else None
        self._calibration = self._first_calibration_batch(native)

    def of(
        self,
        net: naive.NaiveNetwork,
        split: str,
        dtype: torch.dtype,
        sizes: Sequence[int] | None = None,
    ) -> naive.Values:
        """Return the values of a split's samples, in batches of the job's size or of ``sizes``."""
        batch, wanted = self._batch(split, dtype), self._job.document.batch_size
        count = len(self.samples[split])
        size = count if wanted == "auto" else wanted
        sizes = list(sizes or [min(size, count - i) for i in range(0, count, size)])
        try:
            while True:
                self._tick()
                try:
                    if self.own is not None:
                        return net.judge(batch, self.own.call, sizes)
                    y, loss = self.targets(split), self.loss()
                    return net.evaluate(batch, y, loss, sizes, at_once=self.of_split)
                except (RuntimeError, MemoryError) as error:
                    if max(sizes) == 1 or not devices.is_out_of_memory(error):
                        raise
                sizes = [part for n in sizes for part in (n // 2, n - n // 2) if part]
        except (Stopped, UsageError):
            raise
        except Exception as error:
            batches = " and ".join(map(str, sizes[:2]))
            what = "model.arch: network or loss fail"
            if self.own is not None:
                what = f"objective: {self._job.document.objective} fails"
            raise CannotEvaluateError(
                f"{what} for batches of {batches} {split} samples: {type(error).__name__}: {error}"
            ) from error

    def targets(self, split: str) -> Any:
        """Return the samples' targets, in float64."""
        y, chosen = self._loaded.dataset.splits[split].y, self._chosen(split)
        assert y is not None  # without an objective
        return naive.cast(mapped(lambda tensor: tensor[chosen], y), torch.float64)

    def loss(self) -> Any:
        """Return the loss, of which built-in ones are naive, too."""
        spec, dataset = self._job.document.loss_spec, self._loaded.dataset
        if spec.is_own:
            return self._criterion
        missing, kind = dataset.lacks_labels, dataset.own_loss
        return naive_losses.of_name(spec.name, spec.options, lacks_labels=missing, kind=kind)

    def pieces(self, split: str) -> list[int]:
        """Return two sizes of batches, one of them that of the split's last batch."""
        count, wanted = len(self.samples[split]), self._job.document.batch_size
        total = len(self._loaded.dataset.splits[split])
        last = total % wanted if wanted != "auto" else 0
        first = last if 0 < last < count else count // 2 + (count > 2)
        return [first, count - first] if 0 < first < count else [count]

    def check_batches(
        self,
        native: naive.NaiveNetwork,
        wide: naive.NaiveNetwork | None,
        dtype: torch.dtype,
        rounding: Callable[[Tensor, Tensor], float],
    ) -> None:
        """Go on with whole batches if an objective depends on them, and they have a size.

        Raises:
            UsageError: If they have none.
        """
        if self.own is None:
            return
        wanted = self._job.document.batch_size
        for split in self.samples:
            cut = self.pieces(split)
            try:
                whole = self.of(native, split, dtype, [sum(cut)])
                pieces = self.of(native, split, dtype, cut)
                exact = self.of(wide, split, torch.float64, [sum(cut)]) if wide else whole
            except UsageError:
                if wanted == "auto":
                    raise
                is_dependent = True
            else:
                is_dependent = naive.any_apart(whole, pieces, exact, rounding)
                if is_dependent and wanted == "auto":
                    raise mixing.refusal_of_dependence(self._job, split, whole, pieces, cut)
            if is_dependent:
                assert wanted != "auto"
                dataset = self._loaded.dataset
                self.samples = {n: twin_samples.batch(dataset, n, wanted) for n in self.samples}
                return

    def measure_statistics(self, net: naive.NaiveNetwork, dtype: torch.dtype) -> None:
        """Measure running statistics by the first batch of a recalibration, if there is one."""
        if self._calibration is None:
            return
        batch = naive.cast(self._calibration, dtype)
        net.measure_statistics(batch, None if self.own is None else self.own.call)

    def _chosen(self, split: str) -> Tensor:
        return torch.from_numpy(self.samples[split])

    def _batch(self, split: str, dtype: torch.dtype) -> Nested:
        """Return the samples as a network gets them, or the pair that an objective gets."""
        return naive.cast(self._raw(split, self._chosen(split)), dtype)

    def _raw(self, split: str, chosen: Tensor) -> Nested:
        dataset = self._loaded.dataset
        samples = dataset.splits[split]
        raw = mapped(lambda tensor: tensor[chosen], samples.x)
        x = naive.inputs(raw, dataset.mean, dataset.std)
        if self.own is None or samples.y is None:
            return x
        return x, mapped(lambda tensor: tensor[chosen], samples.y)

    def _first_calibration_batch(self, native: nn.Module) -> Nested | None:
        policy = self._job.document.batch_norm
        if policy.policy != "recalibrated" or not models.batch_norm_buffers(native):
            return None
        total = len(self._loaded.dataset.splits["train"])
        generator = torch.Generator().manual_seed(self._job.document.seed)
        drawn = torch.randperm(total, generator=generator)[: policy.samples]
        return self._raw("train", drawn[: policy.batch_size])
