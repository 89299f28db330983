"""The objective: parameters to metrics, on fixed data, on one device.

Model, data, centre and directions are resident.  A cell is one update of a flat buffer (which
the model's parameters are views of), a forward pass over the data, and one small transfer.

Shape suffixes: N samples, M numbers that move.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lsengine import data as datasets
from lsengine import devices
from lsengine.curvature import Hessian
from lsengine.curvature.cells import NAMES, CellCurvature, hessian_parameters, trainable_names
from lsengine.errors import EnvironmentUnfit
from lsengine.objective import batched, fused
from lsengine.objective.device_state import Directions, FlatParameters, ResidentSplit, Steps
from lsengine.objective.losses import Loss, per_sample
from lsengine.objective.recalibration import recalibration
from lsengine.objective.settings import EvaluationSettings
from lsengine.surface.grid import Cell

log = logging.getLogger(__name__)
Metrics = dict[str, float]
T = TypeVar("T")


class Objective:
    """Evaluates one model, displaced from its centre along directions, over fixed data.

    Args:
        model: The network with the centre's parameters; taken over and moved to the device.
        dataset: All splits to evaluate.
        loss: From `loss_function`.
        directions: By axis (``alpha``, ``beta``) and parameter name; with repeats each
            tensor has a leading axis.  Names of running statistics are allowed.
        settings: How to evaluate.
        repeats: Whether the directions have a leading axis of repeats.
        steps: How far a cell lies along each direction; alpha and beta by default.
        tick: Called before every mini-batch; may raise to abandon the cell.
        with_reference: Whether to evaluate the model before it is taken over.

    Attributes:
        reference: The checkpoint's own metrics, the oracle of the centre check; empty
            without ``with_reference``.
        batch_size: Samples per forward pass; smaller than asked for once memory has run out.
    """

    def __init__(
        self,
        model: nn.Module,
        dataset: datasets.Dataset,
        loss: Loss,
        directions: Directions,
        settings: EvaluationSettings,
        *,
        repeats: bool = False,
        steps: Steps | None = None,
        tick: Callable[[], None] = lambda: None,
        with_reference: bool = False,
    ) -> None:
        self._settings, self._loss, self._tick = settings, loss, tick
        self.batch_size = settings.batch_size
        self._trainable = trainable_names(model)
        self.model = model.to(settings.device, settings.dtype).eval().requires_grad_(False)
        devices.allow_tf32(settings.precision == "tf32")
        self._splits = {name: ResidentSplit(dataset, name, settings) for name in dataset.splits}
        self._curvature: CellCurvature | None = None
        with torch.inference_mode():
            self.reference = self._fitting(self._exact_metrics) if with_reference else {}
        self._flat = FlatParameters(self.model, directions, settings, repeats)
        if steps is not None:
            self._flat.vectors.steps = steps
        self._recalibration = recalibration(dataset, settings)
        self._only_weights_move = not self._recalibration and all(
            _is_weight(self.model, name) for name in self._flat.names
        )
        self._only_weights_differ = False  # from what the fused network has taken up
        if settings.curvature:
            self._curvature = self._make_curvature()

    def evaluate(
        self, cell: Cell, coarse: Cell | None = None, known: Metrics | None = None
    ) -> Metrics:
        """Return the metrics of a cell: ``<split>_loss``, ``_accuracy`` and ``_loss_se``.

        Means over all samples of each split; losses are computed from float64 logits and
        accumulated in float64.  With curvature, also `lsengine.curvature.cells.NAMES`.  The result
        depends on the arguments alone.

        Args:
            cell: Where.
            coarse: Its coarse cell; without it curvature starts cold.
            known: Metrics of the cell that need not be evaluated again: all losses and
                accuracies, or all of curvature.
        """
        metrics = dict(known or {})
        if not any(name.endswith("_loss") for name in metrics):
            metrics |= self.losses(cell)
        if self._curvature is not None and NAMES[0] not in metrics:
            metrics |= self._measure(cell, coarse or cell)
        return metrics

    def hessian(self, cell: Cell, names: Sequence[str] | None = None) -> Hessian:
        """Return the Hessian of the mean training loss at a cell, where the weights are left.

        Args:
            cell: Where.
            names: The parameters to differentiate by; default all trainable ones.
        """
        self._place(cell)
        return self._hessian(hessian_parameters(self._trainable) if names is None else names)

    @property
    def krylov_bytes(self) -> int:
        """What the vectors of curvature take on the device; 0 without curvature."""
        return self._curvature.bytes if self._curvature is not None else 0

    def _hessian(self, names: Sequence[str]) -> Hessian:
        split = self._splits["train"]
        inputs = split.exact_inputs()
        batches = [(x, batch[1]) for x, batch in zip(inputs, split.batches, strict=True)]
        return Hessian(self.model, batches, self._loss, names=names, tick=self._tick)

    def losses(self, cell: Cell) -> Metrics:
        """Return the metrics of a cell without curvature."""
        with torch.inference_mode():
            if self._folded is None:
                self._place(cell)
                self._network.sync_weights(weights_only=self._only_weights_differ)
            else:
                if not self._only_weights_differ:
                    self._network.sync_weights()
                self._folded(cell)
            self._only_weights_differ = self._only_weights_move
            return self._fitting(self._metrics)

    def losses_of_group(self, cells: Sequence[Cell]) -> list[Metrics]:
        """Return the metrics of several cells, without curvature, evaluated in one pass.

        They agree with `losses` to rounding.

        Args:
            cells: For a network, and as many of them, as `grouping.cells_per_pass` says.
        """
        with torch.inference_mode():
            vectors = self._flat.vectors
            weights_GM = vectors.centre_M.expand(len(cells), -1).clone()
            for cell, weights_M in zip(cells, weights_GM, strict=True):
                vectors.displace(cell, weights_M)
            by_split = {
                name: self._fitting(functools.partial(self._group_metrics, split, weights_GM))
                for name, split in self._splits.items()
            }
        return [
            {f"{s}_{k}": v for s, rows in by_split.items() for k, v in rows[number]}
            for number in range(len(cells))
        ]

    def _group_metrics(
        self, split: ResidentSplit, weights_GM: Tensor
    ) -> list[list[tuple[str, float]]]:
        group = batched.StackedMLP(self.model, self._flat.places, weights_GM)
        found_losses, found_hits = [], []
        for inputs, targets, has_hits in split.slices(batched.SAMPLES):
            self._tick()
            logits_GKN = group(inputs).to(targets.device)
            if logits_GKN.dtype != torch.float64:
                logits_GKN = logits_GKN.float()
            losses_GN, hits_GN = batched.losses_and_hits(self._loss, logits_GKN, targets)
            found_losses.append(losses_GN)
            if has_hits:
                found_hits.append(hits_GN)
        all_hits = torch.cat(found_hits, 1).double() if found_hits else None
        return split.means_of(torch.cat(found_losses, 1).double(), all_hits)

    def exact_losses(self, cell: Cell) -> Metrics:
        """Return the metrics of a cell in the precision of the weights, by the network itself."""
        with torch.inference_mode():
            self._place(cell)
            return self._fitting(self._exact_metrics)

    def losses_of(self, fill: Callable[[nn.Module], None]) -> Metrics:
        """Return the metrics of other weights, without curvature; the model is left as it was.

        Args:
            fill: Puts parameters and running statistics into the model, in place.  With
                recalibration the statistics are then computed anew.
        """
        with torch.inference_mode():
            kept = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
            try:
                fill(self.model)
                if self._recalibration:
                    self._recalibrate()
                self._only_weights_differ = False
                self._network.sync_weights()
                return self._fitting(self._metrics)
            finally:
                for name, tensor in self.model.state_dict().items():
                    tensor.copy_(kept[name])

    def _place(self, cell: Cell) -> None:
        with torch.inference_mode():
            self._flat.displace(cell)
            if self._recalibration:
                self._recalibrate()

    def _make_curvature(self) -> CellCurvature:
        assert self._settings.curvature is not None
        moved = self._flat.places if self._settings.curvature_of_moved else None
        names = hessian_parameters(self._trainable, moved)
        return CellCurvature(self._hessian(names), self._settings.curvature, self._place)

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
                reason = str(error).splitlines()[0]
            # Outside of the handler, whose traceback keeps the activations.
            self.batch_size //= 2
            log.warning("out of memory (%s); going on with batch_size=%d", reason, self.batch_size)
            with torch.inference_mode(False):
                for split in self._splits.values():
                    split.cut(self.batch_size)
                if self._curvature is not None:
                    self._curvature = self._make_curvature()
            if self._settings.device.type == "cuda":
                torch.cuda.empty_cache()

    @functools.cached_property
    def _network(self) -> fused.FusedForward:
        settings = self._settings
        if settings.dtype == torch.float64:
            return fused.eager(self.model)
        if not settings.channels_last:
            return fused.in_dtype(self.model, settings.compute_dtype)
        sample = next(iter(self._splits.values())).exact_inputs()[0][:2]
        return fused.fused(self.model, settings.compute_dtype, sample)

    @functools.cached_property
    def _folded(self) -> Callable[[Cell], None] | None:
        """Displaces the fused network itself, where only weights move; None where it cannot be.

        Centre and directions are then folded once, and a cell is one update of a vector.
        """
        if not self._only_weights_move:
            return None
        weights = {name: self.model.get_parameter(name) for name in self._flat.names}
        scales = self._network.scales(weights)
        if scales is None:
            return None
        vectors = self._flat.vectors.times(self._flat.factors(scales))
        moved_M = torch.empty_like(vectors.centre_M)
        rounded_M = moved_M.to(self._settings.compute_dtype)  # itself, in float32
        self._network.share(weights, self._flat.views(rounded_M))

        def displace(cell: Cell) -> None:
            vectors.displace(cell, moved_M)
            if rounded_M is not moved_M:
                rounded_M.copy_(moved_M)

        return displace

    def _exact_metrics(self) -> Metrics:
        """Return the metrics of the model as it stands, unfused and in its own precision."""
        inputs = {name: split.exact_inputs() for name, split in self._splits.items()}
        devices.allow_tf32(False)
        try:
            return self._metrics(fused.eager(self.model), inputs)
        finally:
            devices.allow_tf32(self._settings.precision == "tf32")

    def _metrics(
        self,
        network: fused.FusedForward | None = None,
        exact: Mapping[str, Sequence[Tensor]] | None = None,
    ) -> Metrics:
        network = network or self._network
        for name, split in self._splits.items():
            for number, (inputs, targets, losses_N, hits_N) in enumerate(split.batches):
                self._tick()
                output = network(inputs if exact is None else exact[name][number])
                logits = output.to(losses_N.device, torch.float64)
                loss = self._loss(logits, targets)
                split.has_bars = loss.ndim > 0
                losses_N.copy_(per_sample(loss, len(losses_N)))
                if hits_N is not None:
                    hits_N.copy_(_hits(logits, targets))
        return {f"{s}_{k}": v for s, split in self._splits.items() for k, v in split.means()}

    def _recalibrate(self) -> None:
        """Set running statistics to the plain average over a fixed list of batches."""
        layers = [m for m in self.model.modules() if isinstance(m, _BatchNorm)]
        momenta = [layer.momentum for layer in layers]
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # cumulative average
            layer.train()
        for batch in self._recalibration:
            self._tick()
            self.model(batch)
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
            layer.eval()


def _is_weight(model: nn.Module, name: str) -> bool:
    """Whether a parameter is the weight of a convolution or a linear layer."""
    where, _, last = name.rpartition(".")
    return last == "weight" and isinstance(model.get_submodule(where), nn.Conv2d | nn.Linear)


def _hits(logits: Tensor, targets: Tensor) -> Tensor:
    hits = (logits.argmax(1) == targets).double()
    return hits.flatten(1).mean(1) if hits.ndim > 1 else hits
