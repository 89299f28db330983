"""The objective: parameters to metrics, on fixed data, on one device.

What it judges a batch by is a loss of the network's outputs, or an objective of a user's own.

Model, centre and directions are resident, and data that fit.  A cell is one update of a flat buffer
(which the model's parameters are views of), a forward pass over the data, and one small transfer.

Shape suffixes: N samples, M numbers that move, G cells, K outputs.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from lsengine import data as datasets
from lsengine import devices
from lsengine.curvature import Hessian
from lsengine.curvature.cells import NAMES, CellCurvature, hessian_parameters, trainable_names
from lsengine.data import nesting
from lsengine.errors import EnvironmentUnfit, UsageError
from lsengine.objective import batched
from lsengine.objective.batches import first, no_smaller
from lsengine.objective.criterion import Criterion, OwnObjective
from lsengine.objective.cuda_graphs import Replayed
from lsengine.objective.device_state import (
    Directions,
    EvaluationSettings,
    FlatParameters,
    with_place,
)
from lsengine.objective.displaced import DisplacedNetwork
from lsengine.objective.forward import ForwardPass, cast
from lsengine.objective.judging import Judge, SampleValues, Step
from lsengine.objective.layout import is_channels_last
from lsengine.objective.recalibration import calibration_batches
from lsengine.objective.splits import ResidentSplit, resident_splits
from lsengine.objective.vectors import Steps
from lsengine.surface.grid import Cell

log = logging.getLogger(__name__)
Metrics = dict[str, float]
T = TypeVar("T")


class Objective:
    """Evaluates one model, displaced from its centre along directions, over fixed data.

    What a call returns depends on its arguments alone, whatever was called before.

    Args:
        model: The network with the centre's parameters; taken over and moved to the device.
        dataset: All splits to evaluate.
        criterion: From `loss_function` or `own_objective`.
        directions: By axis (``alpha``, ``beta``) and parameter name; with repeats each
            tensor has a leading axis.  Names of running statistics are allowed.
        repeats: Whether the directions have that axis.
        steps: How far a cell lies along each direction; alpha and beta by default.
        tick: Called before every mini-batch; may raise to abandon the cell.

    Attributes:
        model: The network, on the device.
        batch_size: Samples per forward pass; smaller than asked for once memory has run out.
        forward: How losses are computed: ``fused`` layers, or ``eager``, by the network itself,
            and then in which manner.
        inputs: Where the data's inputs are, in words.

    Raises:
        UsageError: If the data lack what the settings need.
        EnvironmentUnfit: If the device has not enough memory.
    """

    def __init__(
        self,
        model: nn.Module,
        dataset: datasets.Dataset,
        criterion: Criterion,
        directions: Directions,
        settings: EvaluationSettings,
        *,
        repeats: bool = False,
        steps: Steps | None = None,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        if isinstance(criterion, OwnObjective):
            settings = replace(settings, judges_batches=True)
        settings = settings.of_data(dataset)
        settings = replace(settings, channels_last=is_channels_last(model, settings))
        settings, others = with_place(settings, model, directions, repeats=repeats)
        self._settings, self._tick = settings, tick
        self.batch_size = settings.batch_size
        self._trainable = trainable_names(model, settings.curvature_of)
        self.model = cast(model, settings.dtype).eval()
        if settings.fuses:  # a user's own code may differentiate by its weights
            self.model.requires_grad_(False)
        self._splits, self.inputs = resident_splits(dataset, settings, others)
        splits = [*self._splits.values()]
        has_classes = any(split.has_classes for split in splits)
        self._judge = Judge(criterion, splits[0].place, has_classes=has_classes)
        self._curvature: CellCurvature | None = None
        self._way = settings.products_by  # or what is found with the first Hessian
        self._flat = FlatParameters(self.model, directions, settings, repeats=repeats, steps=steps)
        self.model.to(settings.device)
        calibration = calibration_batches(dataset, settings)
        sample = splits[0].exact_inputs()[0]
        with self._evaluating():
            self._network = DisplacedNetwork(
                self.model,
                self._flat,
                settings,
                calibration=calibration,
                sample=sample if settings.keeps_batches else first(sample, 2),
                call=self._judge.call,
                tick=tick,
            )
        self.forward = self._network.forward.kind
        self._step = self._step_of(self._network.forward)
        if settings.curvature:
            self._curvature = self._make_curvature()

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Set torch up for losses: without gradients, and with the factors that it may round.

        Not in inference mode where a user's code runs: it may differentiate.
        """
        without = torch.inference_mode() if self._settings.fuses else torch.no_grad()
        with without, devices.tf32(self._settings.precision == "tf32"):
            yield

    def evaluate(
        self,
        cell: Cell,
        coarse: Cell | None = None,
        known: Metrics | None = None,
        following: Cell | None = None,
    ) -> Metrics:
        """Return the metrics of a cell: ``<split>_loss``, ``_accuracy`` and ``_loss_se``.

        Means over all samples of each split; losses are computed from float64 logits and
        accumulated in float64.  With an objective that has metrics, also ``<split>_<name>`` and
        ``<split>_<name>_se``.  With curvature, also `lsengine.curvature.cells.NAMES`.

        Without a coarse cell curvature starts cold.  What is known of the cell is not evaluated
        again: all losses and accuracies, or all of curvature.  A GPU prepares the ``following``
        cell meanwhile; that changes no value.
        """
        metrics = dict(known or {})
        if not any(name.endswith("_loss") for name in metrics):
            metrics |= self.losses(cell, following)
        if self._curvature is not None and NAMES[0] not in metrics:
            metrics |= self._measure(cell, coarse or cell)
        return metrics

    def hessian(self, cell: Cell, names: Sequence[str] | None = None) -> Hessian:
        """Return the Hessian of the mean training loss at a cell, where the weights are left.

        By the named parameters, or all trainable ones.
        """
        self._displace_to(cell)
        return self._hessian(hessian_parameters(self._trainable) if names is None else names)

    @property
    def krylov_bytes(self) -> int:
        """What the vectors of curvature take on the device; 0 without curvature."""
        return self._curvature.bytes if self._curvature is not None else 0

    def _hessian(self, names: Sequence[str]) -> Hessian:
        if left := [n for n, m in self.model.named_modules() if m.training]:
            raise UsageError(
                f"model.arch: {left[0] or 'the network'} is in training mode after a forward pass, "
                "so the loss of a sample depends on others or on chance; curvature needs a "
                "network that stays in evaluation mode"
            )
        split = self._splits["train"]
        hessian = Hessian(
            self.model,
            split.exact_batches(),
            self._judge.differentiated,
            call=self._judge.call,
            keeps_batches=self._settings.keeps_batches,
            names=names,
            tick=self._tick,
            way=self._way,
            tf32=self._settings.tf32_products,
        )
        self._way = hessian.way
        return hessian

    def losses(self, cell: Cell, following: Cell | None = None) -> Metrics:
        """Return the metrics of a cell without curvature; ``following`` as in `evaluate`."""
        with self._evaluating():
            forward = self._network.displace_to(cell)
            self._fitting(lambda: self._queue(forward))
            if following is not None and self._curvature is None:
                self._network.prepare(following)
            return self._read()

    def losses_of_group(self, cells: Sequence[Cell]) -> list[Metrics]:
        """Return the metrics of several cells, without curvature, evaluated in one pass.

        They agree with `losses` to rounding.  Network and number of cells are those of
        `batched.cells_per_pass`, the loss is a built-in one, statistics are not recalibrated.
        """
        with self._evaluating():
            weights_GM = self._weights(cells)
            by_split = [
                self._fitting(functools.partial(self._group_metrics, split, weights_GM))
                for split in self._splits.values()
            ]
        of_cells = zip(*by_split, strict=True)
        return [{k: v for metrics in cell for k, v in metrics.items()} for cell in of_cells]

    def _weights(self, cells: Sequence[Cell]) -> Tensor:
        """Return the numbers that move at several cells, (G, M)."""
        vectors = self._flat.vectors
        weights_GM = torch.stack([vectors.empty() for _ in cells])
        for cell, weights_M in zip(cells, weights_GM, strict=True):
            vectors.displace(cell, weights_M)
        return weights_GM

    def _group_metrics(self, split: ResidentSplit, weights_GM: Tensor) -> list[Metrics]:
        network = batched.StackedMLP(self.model, self._flat.slices, weights_GM)
        losses, hits = [], []
        for inputs, targets in split.slices(batched.SAMPLES):
            self._tick()
            logits_GKN = network(inputs).to(targets.device)
            if logits_GKN.dtype != torch.float64:
                logits_GKN = logits_GKN.float()
            losses_GN, hits_GN = self._judge.of_group(logits_GKN, targets)
            losses.append(losses_GN)
            hits.append(hits_GN)
        all_hits = torch.cat(hits, 1).double() if split.has_classes else None
        return split.means_of(torch.cat(losses, 1).double(), all_hits)

    def values_of_samples(
        self,
        samples: Mapping[str, Sequence[int]],
        cell: Cell,
        fill: Callable[[nn.Module], None] | None = None,
        *,
        exact: bool = False,
        cells_per_pass: int = 1,
        batch_size: int | None = None,
        remade: Callable[[nn.Module], ForwardPass] | None = None,
    ) -> dict[str, SampleValues]:
        """Return losses, hits and metrics of some samples by split.

        They take the road of a cell's losses: that of a group of ``cells_per_pass``, or that of a
        checkpoint that ``fill`` puts into the model; ``exact`` as in `exact_losses`.  Or they are
        exact by another pass, ``remade`` of the model.  Statistics are recalibrated with the first
        batch only.
        """
        with self._evaluating(), self._network.calibrated_by(1), contextlib.ExitStack() as stack:
            if fill is not None:
                forward = stack.enter_context(self._network.filled_by(fill))
            elif exact or remade is not None:
                self._network.displace_model_to(cell)
            else:
                forward = self._network.displace_to(cell)
            if exact or remade is not None:
                forward = remade(self.model) if remade is not None else self._network.exact
            splits = {name: self._splits[name] for name in samples}
            if cells_per_pass > 1:
                weights_GM = self._weights([cell] * cells_per_pass)
                return {n: self._in_group(s, samples[n], weights_GM) for n, s in splits.items()}
            size = batch_size or self.batch_size
            return {n: self._alone(s, samples[n], forward, size) for n, s in splits.items()}

    def _in_group(
        self, split: ResidentSplit, indices: Sequence[int], weights_GM: Tensor
    ) -> SampleValues:
        inputs, targets = map(nesting.lone, split.samples(indices, exact=False))
        outputs_GKN = batched.StackedMLP(self.model, self._flat.slices, weights_GM)(inputs)
        losses_GN, hits_GN = self._judge.of_group(outputs_GKN, targets)
        hits = hits_GN[0].double().cpu() if split.has_classes else None
        return SampleValues(losses_GN[0].double().cpu(), hits, {})

    def _alone(
        self, split: ResidentSplit, indices: Sequence[int], forward: ForwardPass, most: int
    ) -> SampleValues:
        inputs, targets = split.samples(indices, exact=forward is not self._network.forward)

        def evaluate() -> SampleValues:
            pieces = []
            for x in nesting.split(inputs, min(most, self.batch_size)):
                self._tick()
                pieces.append((x, forward(x)))
            return self._judge.samples(pieces, targets)

        return self._fitting(evaluate)

    def exact_losses(self, cell: Cell) -> Metrics:
        """Return the metrics of a cell in the precision of the weights, by the network itself."""
        with self._evaluating():
            self._network.displace_model_to(cell)
            self._fitting(lambda: self._queue(self._network.exact))
            return self._read()

    def losses_of(self, fill: Callable[[nn.Module], None]) -> Metrics:
        """Return the metrics of other weights, without curvature; the model is left as it was.

        ``fill`` puts all parameters and running statistics into the model, in place.  With
        recalibration the statistics are then computed anew.
        """
        with self._evaluating(), self._network.filled_by(fill) as forward:
            self._fitting(lambda: self._queue(forward))
            return self._read()

    def _displace_to(self, cell: Cell) -> None:
        with self._evaluating():
            self._network.displace_model_to(cell)

    def _make_curvature(self) -> CellCurvature:
        assert self._settings.curvature is not None
        moved = self._flat.slices if self._settings.curvature_of_moved else None
        names = hessian_parameters(self._trainable, moved)
        return CellCurvature(self._hessian(names), self._settings.curvature, self._displace_to)

    def _measure(self, cell: Cell, coarse: Cell) -> Metrics:
        def measure() -> Metrics:
            assert self._curvature is not None  # another one after every halving of the batch
            return self._curvature.measure(cell, coarse)

        try:
            return self._fitting(measure)
        except (RuntimeError, MemoryError) as error:
            if not devices.is_out_of_memory(error):
                raise
            raise EnvironmentUnfit(
                f"curvature.basis: the vectors take {self.krylov_bytes / 2**30:.3g} GiB, and "
                f"{self._settings.device} has no room beside them for a product with one sample "
                f"({str(error).splitlines()[0]}); a smaller basis takes less"
            ) from error

    def _fitting(self, work: Callable[[], T]) -> T:
        """Do some work, with batches halved as often as memory runs out."""
        while True:
            try:
                return work()
            except (RuntimeError, MemoryError) as error:
                if self.batch_size == 1 or not devices.is_out_of_memory(error):
                    raise
                if self._settings.keeps_batches:
                    raise no_smaller(self.batch_size, error) from error
                reason = str(error).splitlines()[0]
            # Outside of the handler, whose traceback keeps the activations.
            self.batch_size //= 2
            log.warning("out of memory (%s); going on with batch_size=%d", reason, self.batch_size)
            if isinstance(self._step, Replayed):
                self._step.forget()
            with torch.inference_mode(False):
                for split in self._splits.values():
                    split.cut(self.batch_size)
                if self._curvature is not None:
                    self._curvature = self._make_curvature()
            if self._settings.device.type == "cuda":
                torch.cuda.empty_cache()

    def _queue(self, forward: ForwardPass) -> None:
        """Compute losses and hits with the numbers of a forward pass; a GPU does it later."""
        is_exact = forward is self._network.exact
        step = self._step if forward is self._network.forward else self._judge.step_of(forward)
        if isinstance(step, Replayed):
            step.refresh()
        with devices.tf32(False) if is_exact else contextlib.nullcontext():
            for split in self._splits.values():
                inputs = split.exact_inputs() if is_exact else split.inputs
                if self._settings.at_once:
                    self._judge.of_split(map(forward, self._ticked(inputs)), split)
                    continue
                for x, batch in zip(self._ticked(inputs), split.batches, strict=True):
                    losses, right, metrics = step(x, batch.targets)
                    split.keep(batch, losses, metrics)
                    if batch.hits is not None and right is not None:
                        batch.hits.copy_(right)

    def _ticked(self, batches: Iterable[T]) -> Iterator[T]:
        for batch in batches:
            self._tick()
            yield batch

    def _read(self) -> Metrics:
        """Return the metrics of what was queued, when it is done."""
        return {k: v for split in self._splits.values() for k, v in split.means().items()}

    def _step_of(self, forward: ForwardPass) -> Step | Replayed:
        """Return the step of cells, on a CUDA device recorded as a graph."""
        step = self._judge.step_of(forward)
        can_be = self._settings.device.type == "cuda" and forward.can_be_recorded
        if not can_be or self._settings.judges_batches:  # an objective may do anything
            return step
        return Replayed(step, forward.tensors)
