"""The training steps of a curve: the gradients of its bends, epoch by epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from lsengine.data.nesting import Nested, count
from lsengine.devices import row_major
from lsengine.geometry.curve import coefficients, initial, point
from lsengine.geometry.parameters import Parameters, require_same, selected
from lsengine.job.schema import CurveSpec
from lsengine.objective.criterion import Criterion
from lsengine.objective.judging import Judge

Batches = Iterable[tuple[Nested, Any]]  # inputs, and targets if there are any


class _Called(nn.Module):
    """A network as a module whose forward pass is what a criterion does with it and a batch."""

    def __init__(self, network: nn.Module, call: Callable[[nn.Module, Any], Any]) -> None:
        super().__init__()
        self.network, self._call = network, call

    def forward(self, batch: Nested) -> Any:
        """Return what a criterion judges."""
        return self._call(self.network, batch)


def learning_rate(base: float, epoch: int, epochs: int) -> float:
    """Return the learning rate of an epoch, counted from 1.

    The schedule of the authors' code: ``base`` in the first half of the epochs, then falling
    linearly to a hundredth of it at nine tenths, where it stays.
    """
    return base * (1.0 - 0.99 * min(1.0, max(0.0, (epoch / epochs - 0.5) / 0.4)))


class CurveTrainer:
    """Trains the bends of a curve, epoch by epoch, so that it can be saved in between.

    Each step draws a ``t`` uniformly and follows the gradient of a mini-batch's loss at that
    point (Garipov et al. 2018, section 3.3).  The point is linear in the bends, so the
    gradient of a bend is its coefficient times the gradient at the point; this costs one
    forward and backward pass, as ordinary training does.  Weights decay at the point of the
    curve, not at the bends.  What an epoch draws, points and dropout, depends on seed and epoch
    only: going on from a saved state changes nothing.

    Args:
        model: Used in train mode, on its own device; its parameters, buffers and mode are
            left as they are.
        ends: Parameters of both ends, all those of the model; further entries are ignored.
        names: The parameters that are on the curve; without it all.  The others have the model's
            numbers.
        criterion: A loss, which gets outputs and targets, or an objective, which gets network and
            batch.
        settings: Of the curve and its training.

    Attributes:
        controls: First end, bends, other end, on the model's device; of what is on the curve.

    Raises:
        ValueError: If there is no bend to train, or an end does not fit the model.
    """

    def __init__(
        self,
        model: nn.Module,
        ends: tuple[Parameters, Parameters],
        criterion: Criterion,
        settings: CurveSpec,
        names: Collection[str] | None = None,
    ) -> None:
        if settings.bends < 1:
            raise ValueError(f"a curve that is trained has at least one bend; got {settings.bends}")
        coefficients(settings.kind, settings.bends, 0.0)  # refuses an unknown kind
        self._model, self._settings = model, settings
        place = next((p.device for p in model.parameters()), torch.device("cpu"))
        self._judge = Judge(criterion, place, has_classes=False)
        self._called = _Called(model, self._judge.call)
        self._buffers = {n: b.detach().clone() for n, b in model.named_buffers()}
        fitted = [_fitted(model, end, number) for number, end in enumerate(ends)]
        first, other = (end if names is None else selected(end, names) for end in fitted)
        self.controls = initial(first, other, settings.bends)
        self._bends = self.controls[1:-1]
        tensors = [tensor for bend in self._bends for tensor in bend.values()]
        self._optimizer = torch.optim.SGD(tensors, lr=settings.lr, momentum=settings.momentum)

    def epoch(
        self, number: int, batches: Batches, tick: Callable[[], None] = lambda: None
    ) -> float:
        """Train for one epoch and return its mean loss over samples.

        Args:
            number: From 1.
            batches: Inputs and targets, on the model's device; for an objective whole batches,
                without targets.
            tick: Called before every mini-batch; may raise to stop.

        Raises:
            FloatingPointError: If the mean loss is not finite.
            ValueError: If there are no batches.
        """
        s = self._settings
        draws = np.random.default_rng([s.seed, number])
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(s.lr, number, s.epochs)
        means, sizes = [], []
        with _training(self._model, int(draws.integers(2**31))):
            for inputs, targets in batches:
                tick()
                means.append(self.gradients(float(draws.random()), inputs, targets))
                sizes.append(count(inputs))
                self._optimizer.step()
        if not means:
            raise ValueError(f"epoch {number} has no batches")
        mean = float(np.average(torch.stack(means).double().cpu().numpy(), weights=sizes))
        if not math.isfinite(mean):
            raise FloatingPointError(
                f"epoch {number} of the curve: the loss is {mean}; use a lower learning rate"
            )
        return mean

    def gradients(self, t: float, inputs: Nested, targets: Nested | None) -> Tensor:
        """Set the gradients of all bends at ``t``; return the loss, without weight decay."""
        s = self._settings
        weights = point(self.controls, s.kind, t)
        for tensor in weights.values():
            tensor.requires_grad_(True)
        with torch.enable_grad():
            numbers = {f"network.{n}": t for n, t in {**weights, **self._buffers}.items()}
            value = self._judge.mean(functional_call(self._called, numbers, (inputs,)), targets)
        gradients = torch.autograd.grad(value, list(weights.values()), allow_unused=True)
        shares = coefficients(s.kind, s.bends, t)[1:-1].tolist()
        for (name, tensor), gradient in zip(weights.items(), gradients, strict=True):
            slope = s.weight_decay * tensor.detach()
            if gradient is not None:
                slope += gradient
            for share, bend in zip(shares, self._bends, strict=True):
                bend[name].grad = share * slope
        return value.detach()

    def state_dict(self) -> dict[str, Any]:
        """Return bends and momenta, for `load_state_dict`."""
        return {"bends": self._bends, "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where ``state`` was taken."""
        for bend, saved in zip(self._bends, state["bends"], strict=True):
            for name, tensor in bend.items():
                tensor.copy_(saved[name])
        self._optimizer.load_state_dict(dict(state["optimizer"]))


@contextmanager
def _training(model: nn.Module, seed: int) -> Iterator[None]:
    """Put a model into train mode with its own stream of random numbers, and back."""
    modes = [(module, module.training) for module in model.modules()]
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    model.train()
    try:
        with torch.random.fork_rng(devices=list(devices)):
            torch.manual_seed(seed)
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def _fitted(model: nn.Module, end: Parameters, number: int) -> dict[str, Tensor]:
    """Return an end's parameters in the model's order, on its device and in its dtype."""
    parameters = dict(model.named_parameters())
    fitting = selected(end, parameters)
    require_same(fitting, parameters, f"end {number} of the curve")
    # A checkpoint may bring channels-last strides, which the backward pass may not survive.
    return {
        name: row_major(tensor).to(parameters[name].device, parameters[name].dtype)
        for name, tensor in fitting.items()
    }
