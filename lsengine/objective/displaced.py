"""The network that cells are evaluated with: which numbers it holds, and who changes them.

Shape suffix: M numbers that move.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import nn

from lsengine import devices
from lsengine.data.nesting import Nested, count, lone
from lsengine.errors import EnvironmentUnfit
from lsengine.models import calling, own_loading
from lsengine.objective.batches import no_smaller
from lsengine.objective.device_state import EvaluationSettings, FlatParameters, all_in_precision
from lsengine.objective.forward import (
    Call,
    ForwardPass,
    compiled,
    in_dtype,
    manner_in_precision,
    require_runs,
)
from lsengine.objective.fused import fused
from lsengine.objective.recalibration import recalibrate
from lsengine.surface.grid import Cell


class DisplacedNetwork:
    """A model that moves, and the forward pass that losses of cells are computed with.

    Both are built once, at the centre.  Each has numbers of its own, and nobody else writes
    them.  What does not move is the centre's in both between any two calls, so that no call
    depends on those before it.

    Args:
        model: The network with the centre's parameters, on the device, in evaluation mode.
        flat: Its numbers that move.
        calibration: Batches to measure running statistics with, in every cell; may be empty.
        sample: A few inputs in the precision of the weights, to try the forward pass with.
        call: What is done with the network and each batch.
        tick: Called before every batch of ``calibration``; may raise to stop.

    Attributes:
        model: For what is computed by the network's own code, in the precision of its weights.
        exact: The model's own code, with its numbers.
        forward: For everything else, in the precision of the settings.

    Raises:
        EnvironmentUnfit: If the device has no room for the forward pass.
    """

    def __init__(
        self,
        model: nn.Module,
        flat: FlatParameters,
        settings: EvaluationSettings,
        *,
        calibration: Sequence[Nested],
        sample: Nested,
        call: Call = calling.call,
        tick: Callable[[], None],
    ) -> None:
        self.model, self._flat, self._settings = model, flat, settings
        self._calibration, self._tick = calibration, tick
        # A GPU is told what to do long before it does it; a CPU has nothing to wait for.
        self._works_ahead = settings.device.type == "cuda" and not calibration
        self._ahead: Cell | None = None  # whose numbers the forward pass has already
        self._sample = all_in_precision(sample, settings.compute_dtype)
        self._call, self._manner = call, None
        try:
            if not settings.fuses:
                self._manner = manner_in_precision(model, sample, settings.dtype, call)
            self.exact = ForwardPass(model, self._manner, call)
            self.forward = self._forward_pass(sample)
        except (RuntimeError, MemoryError) as error:
            if not devices.is_out_of_memory(error):
                raise
            if settings.keeps_batches:
                raise no_smaller(count(sample), error) from error
            raise EnvironmentUnfit(
                f"{settings.device} has no room for the network's folded weights beside the data "
                f"({str(error).splitlines()[0]}); use a device with more memory, or data.subset"
            ) from error
        modules = dict(model.named_modules(remove_duplicate=False))
        owners = {name: modules[name.rpartition(".")[0]] for name in flat.slices}
        # of convolutions and linear layers
        only_weights = not calibration and all(
            name.rpartition(".")[2] == "weight" and isinstance(owner, nn.Conv2d | nn.Linear)
            for name, owner in owners.items()
        )
        self._displace_folded = self._fold() if only_weights else None

    def displace_model_to(self, cell: Cell) -> None:
        """Give the model the numbers of a cell, statistics included."""
        self._ahead = None
        self._flat.displace(cell)
        self._recalibrate()

    def displace_to(self, cell: Cell) -> ForwardPass:
        """Return a pass with the numbers of a cell; the model's own may be any cell's."""
        if cell != self._ahead:
            self._displace_pass_to(cell)
        self._ahead = None
        if self.forward.is_tame(self._sample):
            return self.forward
        self.displace_model_to(cell)
        return self.exact

    def prepare(self, cell: Cell) -> None:
        """Let a GPU make the numbers of the cell to come while it is still at work on another."""
        if self._works_ahead:
            self._displace_pass_to(cell)
            self._ahead = cell

    def _displace_pass_to(self, cell: Cell) -> None:
        if self._displace_folded is not None:
            self._displace_folded(cell)
        else:
            self.displace_model_to(cell)
            self.forward.sync()

    @contextlib.contextmanager
    def calibrated_by(self, batches: int) -> Iterator[None]:
        """Measure running statistics with the first few batches only."""
        everything, self._calibration = self._calibration, self._calibration[:batches]
        try:
            yield
        finally:
            self._calibration = everything

    @contextlib.contextmanager
    def filled_by(self, fill: Callable[[nn.Module], None]) -> Iterator[ForwardPass]:
        """Give a pass with the numbers that ``fill`` puts into the model, and take them back."""
        self._ahead = None
        before = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        try:
            fill(self.model)
            self._recalibrate()
            self.forward.sync()
            yield self.forward if self.forward.is_tame(self._sample) else self.exact
        finally:
            for name, tensor in self.model.state_dict().items():
                tensor.copy_(before[name])
            own_loading.set_extra(self.model, before)
            self.forward.sync()

    def _recalibrate(self) -> None:
        if self._calibration:
            recalibrate(self.model, self.exact, self._calibration, self._tick)

    def _forward_pass(self, sample: Nested) -> ForwardPass:
        settings, dtype = self._settings, self._settings.compute_dtype
        if settings.compiles:
            return compiled(self.model, dtype, self._sample, self._manner, self._call)
        if settings.dtype == torch.float64:
            return self.exact
        if not settings.fuses:
            passes = in_dtype(self.model, dtype, self._manner, self._call)
            require_runs(passes, self._sample, self.model, dtype)
            return passes
        return fused(self.model, dtype, lone(sample), tf32=settings.precision == "tf32")

    def _fold(self) -> Callable[[Cell], None] | None:
        """Return what displaces the fused layers themselves; None where it cannot be.

        Where only weights move, the scales of the normalisations are the same for all cells.
        Centre and directions are then multiplied by them once, the fused layers look at one
        vector, and a cell is one update of that vector.
        """
        weights = {name: self.model.get_parameter(name) for name in self._flat.slices}
        if (scales := self.forward.fold_scales(weights)) is None:
            return None
        vectors = self._flat.vectors.times(self._flat.factors(scales))
        rounded_M = vectors.empty(self._settings.compute_dtype)
        self.forward.bind_views(weights, self._flat.views(rounded_M))
        return lambda cell: vectors.displace(cell, rounded_M)
