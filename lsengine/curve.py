"""Curves of low loss between two minima: Bezier curves and polygonal chains.

After Garipov et al. (2018), arXiv:1802.10026.  A curve is a list of control points, mappings
from parameter names to tensors: the two ends, which stay, and between them the bends, which
are trained so that the loss is low on average over the curve.  Running statistics of batch
norm are no part of a curve: they mean something for one point only and are computed anew
wherever the curve is evaluated.  Knows no file and no rank.

Shape suffixes: C control points, S samples of the curve.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from lsengine import memory_order

Parameters = Mapping[str, Tensor]
Batches = Iterable[tuple[Tensor, Tensor]]
Loss = Callable[[Tensor, Tensor], Tensor]
Array = NDArray[np.float64]

KINDS = ("bezier", "polygonal")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a curve is trained; the defaults are those of the authors' own code, but bends.

    Attributes:
        kind: ``bezier`` (of degree ``bends + 1``) or ``polygonal``.
        bends: Control points between the ends; one gives the quadratic Bezier curve or the
            chain of two segments of the paper.
        epochs: Over the training data.
        lr: Learning rate of the first half; see `learning_rate`.
        momentum: Of stochastic gradient descent.
        weight_decay: Of the weights at the point of the curve, not of the bends.
        seed: Of the points drawn on the curve, and of dropout.
    """

    kind: str = "bezier"
    bends: int = 1
    epochs: int = 200
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-4
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Plane:
    """The plane through both ends and one bend.

    Attributes:
        directions: Two orthonormal directions, float32: from the first end to the other, and
            from that line to the bend.  The centre is the first end.
        coordinates: (C, 2), of all control points; of further bends, those of the nearest
            point of the plane.
        distance: (C,), of control points from the plane.
    """

    directions: tuple[dict[str, Tensor], dict[str, Tensor]]
    coordinates: Array
    distance: Array


def coefficients(kind: str, bends: int, t: float) -> Array:
    """Return the weights (C,) of the control points at ``t``; they add up to one.

    A Bezier curve has Bernstein's polynomials, ``binom(n, k) t^k (1 - t)^(n - k)`` with
    ``n = bends + 1``; a polygonal chain runs through its control points at ``t = k / n``.
    At 0 and 1 one weight is exactly 1 and the others 0.  Without bends both are the straight
    line.

    Raises:
        ValueError: If ``kind`` is unknown, ``bends`` negative, or ``t`` outside [0, 1].
    """
    if kind not in KINDS:
        raise ValueError(f"kind of curve: got {kind!r}; allowed: {', '.join(KINDS)}")
    if bends < 0 or not 0 <= t <= 1:
        raise ValueError(f"bends is at least 0 and t in [0, 1]; got {bends} and {t}")
    degree = bends + 1
    k_C = np.arange(degree + 1)
    if kind == "polygonal":
        weights_C: Array = np.maximum(0.0, 1.0 - np.abs(t * degree - k_C))
        return weights_C
    return np.array([math.comb(degree, k) * t**k * (1 - t) ** (degree - k) for k in k_C])


def point(controls: Sequence[Parameters], kind: str, t: float) -> dict[str, Tensor]:
    """Return the parameters at ``t``, in the dtype and on the device of the control points.

    At 0 and 1 they are exactly the ends.

    Args:
        controls: First end, bends, other end.
        kind: ``bezier`` or ``polygonal``.
        t: From 0 to 1.

    Raises:
        ValueError: As for `coefficients`.
    """
    weights_C = coefficients(kind, len(controls) - 2, t).tolist()
    # Without weights of zero, so that an infinite number elsewhere does no harm.
    terms = [(w, c) for w, c in zip(weights_C, controls, strict=True) if w]
    weight, first = terms[0]
    total = {name: weight * tensor for name, tensor in first.items()}
    for weight, control in terms[1:]:
        for name, tensor in total.items():
            tensor.add_(control[name], alpha=weight)
    return total


def initial(start: Parameters, end: Parameters, bends: int) -> list[dict[str, Tensor]]:
    """Return control points spread evenly over the straight line between two ends.

    Raises:
        ValueError: If the ends differ in names or shapes, or ``bends`` is negative.
    """
    if start.keys() != end.keys():
        odd = sorted(start.keys() ^ end.keys())
        raise ValueError(f"the ends differ in parameters: {', '.join(odd)}")
    for name, tensor in start.items():
        if tensor.shape != end[name].shape:
            shapes = f"{[*tensor.shape]} and {[*end[name].shape]}"
            raise ValueError(f"the ends differ in shape: {name} has {shapes}")
    parts = range(bends + 2)
    return [point([start, end], "polygonal", k / (bends + 1)) for k in parts]


def learning_rate(base: float, epoch: int, epochs: int) -> float:
    """Return the learning rate of an epoch, counted from 1.

    The schedule of the authors' code: ``base`` in the first half of the epochs, then falling
    linearly to a hundredth of it at nine tenths, where it stays.
    """
    progress = epoch / epochs
    return base * (1.0 - 0.99 * min(1.0, max(0.0, (progress - 0.5) / 0.4)))


class CurveTrainer:
    """Trains the bends of a curve, epoch by epoch, so that it can be saved in between.

    Each step draws a ``t`` uniformly and follows the gradient of a mini-batch's loss at that
    point (Garipov et al. 2018, section 3.3).  The point is linear in the bends, so the
    gradient of a bend is its coefficient times the gradient at the point; this costs one
    forward and backward pass, as ordinary training does.  What an epoch draws depends on seed
    and epoch only: going on from a saved state changes nothing.

    Args:
        model: Used in train mode, on its own device; its parameters, buffers and mode are
            left as they are.
        ends: Parameters of both ends, all those of the model; further entries are ignored.
        loss: Called as ``loss(output, target)``; the mean of what it returns is taken.
        settings: See `Settings`.

    Attributes:
        controls: First end, bends, other end, on the model's device.

    Raises:
        ValueError: If there is no bend to train, or an end does not fit the model.
    """

    def __init__(
        self,
        model: nn.Module,
        ends: tuple[Parameters, Parameters],
        loss: Loss,
        settings: Settings,
    ) -> None:
        if settings.bends < 1:
            raise ValueError(f"a curve that is trained has at least one bend; got {settings.bends}")
        coefficients(settings.kind, settings.bends, 0.0)  # refuses an unknown kind
        self._model, self._loss, self._settings = model, loss, settings
        self._buffers = {n: b.detach().clone() for n, b in model.named_buffers()}
        fitted = [_fitted(model, end, i) for i, end in enumerate(ends)]
        self.controls = initial(fitted[0], fitted[1], settings.bends)
        self._bends = self.controls[1:-1]
        self._optimizer = torch.optim.SGD(
            [tensor for bend in self._bends for tensor in bend.values()],
            lr=settings.lr,
            momentum=settings.momentum,
        )

    def epoch(
        self, number: int, batches: Batches, tick: Callable[[], None] = lambda: None
    ) -> float:
        """Train for one epoch and return its mean loss over samples.

        Args:
            number: Of the epoch, from 1.
            batches: Inputs and targets, on the model's device.
            tick: Called before every mini-batch; may raise to stop.

        Raises:
            FloatingPointError: If the mean loss is not finite.
            ValueError: If there are no batches.
        """
        s = self._settings
        draws = np.random.default_rng([s.seed, number])
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(s.lr, number, s.epochs)
        losses, sizes = [], []
        with _training(self._model, int(draws.integers(2**31))):
            for inputs, targets in batches:
                tick()
                losses.append(self.gradients(float(draws.random()), inputs, targets))
                sizes.append(len(inputs))
                self._optimizer.step()
        if not losses:
            raise ValueError(f"epoch {number} has no batches")
        mean = float(np.average(torch.stack(losses).double().cpu().numpy(), weights=sizes))
        if not math.isfinite(mean):
            raise FloatingPointError(
                f"epoch {number} of the curve: the loss is {mean}; use a lower learning rate"
            )
        return mean

    def gradients(self, t: float, inputs: Tensor, targets: Tensor) -> Tensor:
        """Set the gradients of all bends at ``t``; return the loss, without weight decay."""
        s = self._settings
        here = point(self.controls, s.kind, t)
        for tensor in here.values():
            tensor.requires_grad_(True)
        with torch.enable_grad():
            output = functional_call(self._model, {**here, **self._buffers}, (inputs,))
            value = self._loss(output, targets).mean()
        found = torch.autograd.grad(value, list(here.values()), allow_unused=True)
        weights = coefficients(s.kind, s.bends, t)[1:-1].tolist()
        for (name, tensor), gradient in zip(here.items(), found, strict=True):
            slope = s.weight_decay * tensor.detach()
            if gradient is not None:
                slope += gradient
            for weight, bend in zip(weights, self._bends, strict=True):
                bend[name].grad = weight * slope
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


def train_curve(
    model: nn.Module,
    ends: tuple[Parameters, Parameters],
    batches_of_epoch: Callable[[int], Batches],
    loss: Loss,
    settings: Settings,
    tick: Callable[[], None] = lambda: None,
) -> list[dict[str, Tensor]]:
    """Train a curve from the straight line on; return its control points, on the CPU.

    Args:
        model: As for `CurveTrainer`.
        ends: Likewise.
        batches_of_epoch: Number of an epoch, from 1, to its mini-batches.
        loss: As for `CurveTrainer`.
        settings: Likewise.
        tick: Called before every mini-batch; may raise to stop.

    Raises:
        FloatingPointError: If the loss ceases to be finite.
        ValueError: As for `CurveTrainer`.
    """
    trainer = CurveTrainer(model, ends, loss, settings)
    for number in range(1, settings.epochs + 1):
        trainer.epoch(number, batches_of_epoch(number), tick)
    return [{name: tensor.cpu() for name, tensor in c.items()} for c in trainer.controls]


def barrier(losses: Array, ts: Array) -> float:
    """Return the height of the barrier along a curve.

    The largest excess of the loss over the straight line between the losses of the ends,
    ``max_t L(t) - (1 - t) L(0) - t L(1)``: the definition of Entezari et al. (2022),
    arXiv:2110.06296, there for the straight segment, here along any curve.  It is never
    negative.  (Frankle et al. 2020, arXiv:1912.05671, compare with the mean of the ends
    instead; for ends of equal loss there is no difference.)

    Args:
        losses: (S,); NaN if one of them is.
        ts: (S,), with 0 and 1 among them, in any order.

    Raises:
        ValueError: If shapes differ, or one of the ends is not among ``ts``.
    """
    if losses.shape != ts.shape:
        raise ValueError(f"{[*losses.shape]} losses at {[*ts.shape]} values of t")
    if not ((ts == 0).any() and (ts == 1).any()):
        raise ValueError("the height of a barrier needs the loss of both ends: t = 0 and t = 1")
    start, end = losses[ts == 0][0], losses[ts == 1][0]
    return float((losses - (1 - ts) * start - ts * end).max())


def plane(controls: Sequence[Parameters], bend: int = 1) -> Plane:
    """Return the plane through both ends and a bend, by the Gram-Schmidt process.

    Args:
        controls: First end, bends, other end.
        bend: Index of the bend among the control points.

    Raises:
        ValueError: If there is no such bend, the ends are the same, or the bend lies on the
            line through them, all but for rounding.
    """
    if not 0 < bend < len(controls) - 1:
        raise ValueError(f"a curve of {len(controls) - 2} bend(s) has no bend {bend}")
    start = {name: tensor.detach().cpu().double() for name, tensor in controls[0].items()}
    rounding = _rounding(controls)
    along = _unit(_difference(controls[-1], start), rounding, "the ends are the same point")
    aside = _difference(controls[bend], start)
    for _ in range(2):  # twice, so that a bend close to the line still gives a right angle
        overlap = _dot(aside, along)
        aside = {name: tensor - overlap * along[name] for name, tensor in aside.items()}
    aside = _unit(aside, rounding, "the bend lies on the straight line between the ends")
    coordinates, distances = [], []
    for control in controls:
        rest = _difference(control, start)
        x, y = _dot(rest, along), _dot(rest, aside)
        coordinates.append([x, y])
        rest = {n: r - x * along[n] - y * aside[n] for n, r in rest.items()}
        distances.append(math.sqrt(_dot(rest, rest)))
    alpha, beta = ({n: v.float() for n, v in d.items()} for d in (along, aside))
    return Plane(
        directions=(alpha, beta),
        coordinates=np.array(coordinates),
        distance=np.array(distances),
    )


def curve_in_plane(plane: Plane, kind: str, ts: Array) -> Array:
    """Return the coordinates (S, 2) of the curve in a plane.

    Projection is linear, so they are the curve of the control points' coordinates.

    Raises:
        ValueError: As for `coefficients`.
    """
    bends = len(plane.coordinates) - 2
    return np.stack([coefficients(kind, bends, float(t)) @ plane.coordinates for t in ts])


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
    fitted = {}
    for name, own in model.named_parameters():
        if name not in end:
            raise ValueError(f"end {number} of the curve lacks {name}")
        if end[name].shape != own.shape:
            shapes = f"{[*end[name].shape]}, in the model {[*own.shape]}"
            raise ValueError(f"end {number} of the curve: {name} has shape {shapes}")
        # A checkpoint may bring channels-last strides, which the backward pass may not survive.
        fitted[name] = memory_order.contiguous(end[name]).to(own.device, own.dtype)
    return fitted


def _difference(control: Parameters, start: Parameters) -> dict[str, Tensor]:
    return {n: control[n].detach().cpu().double() - tensor for n, tensor in start.items()}


def _dot(a: Parameters, b: Parameters) -> float:
    return sum(float((tensor * b[name]).sum()) for name, tensor in a.items())


def _unit(vector: Parameters, rounding: float, otherwise: str) -> dict[str, Tensor]:
    length = math.sqrt(_dot(vector, vector))
    if length <= rounding:
        raise ValueError(f"there is no plane through these points: {otherwise}")
    return {name: tensor / length for name, tensor in vector.items()}


def _rounding(controls: Sequence[Parameters]) -> float:
    """Return how far rounding may have moved a control point."""
    squares = [sum(float(t.double().square().sum()) for t in c.values()) for c in controls]
    eps = max(torch.finfo(t.dtype).eps for c in controls for t in c.values())
    return eps * math.sqrt(max(squares))
