"""The plainest evaluation there is, for a few samples: what the engine's values are checked by.

It shares no code with the rest of this room: no flat vector, no fused layers, no other layout, no
cast but the one to float64, no inference mode.  Parameters are displaced in place, by name, and
the network's own forward is called.

Shape suffix: N samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lsengine.data.nesting import Nested, count, joined, mapped, split
from lsengine.objective import naive_losses
from lsengine.objective.outputs import nested_output

Numbers = Mapping[str, Tensor]


class Values(NamedTuple):
    """What a network makes of some samples, all float64.

    Attributes:
        outputs: (N, ...); empty if they are no real numbers.
        losses: One per sample (N,), or one mean (1,).
        loss: Their mean, weighted where the loss gives weights.
        hits: Which share of its labels each sample has right (N,); None without classes.
        is_nested: Whether outputs, here behind each other, or targets were several tensors.
        metrics: What an objective returns besides, by name, (N,) or (N, K).
    """

    outputs: Tensor
    losses: Tensor
    loss: float
    hits: Tensor | None
    is_nested: bool = False
    metrics: Mapping[str, Tensor] = MappingProxyType({})


class NaiveNetwork:
    """A network of its own, displaced in place.

    ``build`` gives a fresh network with the checkpoint's numbers, in evaluation mode.  Any call of
    it may be the first one of the factory's.
    """

    def __init__(self, build: Callable[[], nn.Module]) -> None:
        self.model = build()
        self._centre = {name: t.detach().clone() for name, t in self._tensors().items()}

    def _tensors(self) -> dict[str, Tensor]:
        return {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}

    @torch.no_grad()
    def displace(self, steps: Sequence[float], directions: Sequence[Numbers]) -> bool:
        """Put every number to the centre's, plus each step times each direction.

        Returns whether any number is another one than the centre's.
        """
        has_moved = False
        for name, tensor in self._tensors().items():
            tensor.copy_(self._centre[name])
            for step, direction in zip(steps, directions, strict=False):
                if step and name in direction:
                    tensor += step * direction[name].to(tensor.dtype)
                    has_moved = has_moved or not torch.equal(tensor, self._centre[name])
        return has_moved

    @torch.no_grad()
    def fill(self, numbers: Numbers) -> Numbers:
        """Put numbers of the names that are given into the network, and return all that it has."""
        tensors = self._tensors()
        for name in tensors.keys() & numbers.keys():
            tensors[name].copy_(numbers[name])
        return tensors

    @torch.no_grad()
    def measure_statistics(self, x: Nested, use: Callable[..., Any] | None = None) -> None:
        """Replace running statistics by those of one batch, which is given to `__call__`."""
        layers: list[Any] = [m for m in self.model.modules() if _has_statistics(m)]
        before = [(layer.momentum, layer.training) for layer in layers]
        for layer in layers:
            layer.momentum, layer.training = 1.0, True
        self(x, use)
        for layer, (momentum, training) in zip(layers, before, strict=True):
            layer.momentum, layer.training = momentum, training

    def __call__(self, x: Nested, use: Callable[..., Any] | None = None) -> Any:
        """Return the network's output, or what ``use(network, batch)`` returns.

        With gradients recorded unless it works only without.
        """
        try:
            with torch.enable_grad():
                return self._call(mapped(Tensor.clone, x), use)
        except RuntimeError:
            with torch.no_grad():
                return self._call(mapped(Tensor.clone, x), use)

    def _call(self, x: Nested, use: Callable[..., Any] | None) -> Any:
        if use is not None:
            return use(self.model, x)
        if isinstance(x, dict):
            return self.model(**x)
        return self.model(*x) if isinstance(x, tuple) else self.model(x)

    def evaluate(
        self,
        x: Nested,
        y: Nested,
        loss: Callable[..., Any],
        sizes: Sequence[int],
        *,
        at_once: bool = False,
    ) -> Values:
        """Return the values of samples, in batches of these sizes, or their loss ``at_once``."""
        batches = []
        for x_N, y_N in zip(split(x, sizes), split(y, sizes), strict=True):
            output = mapped(lambda tensor: tensor.detach().cpu(), nested_output(self(x_N)))
            batches.append((cast(output, torch.float64), y_N))
        if at_once:
            batches = [(joined([output for output, _ in batches]), y)]
        return values_of(batches, loss)

    def judge(self, batch: Nested, objective: Callable[..., Any], sizes: Sequence[int]) -> Values:
        """Return what an objective makes of samples, in batches of these sizes.

        The outputs are all that it returns.
        """
        columns: dict[str, list[Tensor]] = {}
        weights: list[Tensor] = []
        for part in split(batch, sizes):
            result = self(part, objective)
            named = result if isinstance(result, Mapping) else {"loss": result}
            for name, value in named.items():
                if not isinstance(value, tuple | list | Tensor):
                    value = value.values  # a summary's
                numbers, weight = value if isinstance(value, tuple | list) else (value, None)
                numbers = numbers.detach().cpu().double()
                columns.setdefault(name, []).append(numbers)
                if name == "loss":
                    ones = torch.ones(len(numbers), dtype=torch.float64)
                    weights.append(ones if weight is None else weight.detach().cpu().double())
        metrics = {name: torch.cat(parts) for name, parts in columns.items()}
        for name, tensor in metrics.items():
            if len(tensor) != sum(sizes):
                found = f'"{name}" has {len(tensor)} numbers for {sum(sizes)} samples'
                raise ValueError(f"{found} in batches of {' and '.join(map(str, sizes))}")
        losses, shares = metrics.pop("loss"), torch.cat(weights)
        mean = (losses.where(shares > 0, 0) * shares).sum() / shares.sum()
        rows = [tensor.reshape(len(losses), -1) for tensor in (losses, *metrics.values())]
        return Values(torch.cat(rows, 1), losses, float(mean), None, metrics=metrics)


@torch.no_grad()
def values_of(batches: Sequence[tuple[Nested, Any]], loss: Callable[..., Any]) -> Values:
    """Return the values of batches of outputs and targets."""
    losses, weights = [], []
    for output, y_N in batches:
        result = loss(output, y_N)
        result, weight = result if isinstance(result, tuple | list) else (result, None)
        is_mean = result.ndim == 0
        if is_mean:
            result, weight = result.reshape(1), result.new_full((1,), count(y_N))
        losses.append(result.detach().double())
        ones = torch.ones(len(result), dtype=torch.float64)
        weights.append(ones if weight is None else weight.detach().double())
    values, shares = torch.cat(losses), torch.cat(weights)
    mean = (values.where(shares > 0, 0) * shares).sum() / shares.sum()
    outputs = [_real(output) for output, _ in batches]
    answers = naive_losses.answers_of(loss)
    hits = [h for h in (answers(*batch) for batch in batches) if h is not None]
    return Values(
        _joined(outputs),
        mean.reshape(1) if is_mean else values,
        float(mean),
        torch.cat(hits) if len(hits) == len(batches) else None,
        is_nested=not all(isinstance(of_batch, Tensor) for of_batch in batches[0]),
    )


def any_apart(
    a: Values, b: Values, exact: Values, rounding: Callable[[Tensor, Tensor], float]
) -> bool:
    """Whether losses or metrics of two evaluations differ by more than ``rounding(a, exact)``."""
    of_losses = [(a.losses, b.losses, exact.losses)]
    of_metrics = [(a.metrics[n], b.metrics[n], exact.metrics[n]) for n in a.metrics]
    return any(distance(x, y) > rounding(x, wide) for x, y, wide in of_losses + of_metrics)


def curve_weights(kind: str, controls: int, t: float) -> list[float]:
    """Return the weights of a curve's control points at ``t`` in [0, 1], by de Casteljau's rule."""
    unit = torch.eye(controls, dtype=torch.float64)
    if kind == "polygonal":
        piece = min(int(t * (controls - 1)), controls - 2)
        unit, t = unit[piece : piece + 2], t * (controls - 1) - piece
    while len(unit) > 1:
        unit = (1 - t) * unit[:-1] + t * unit[1:]
    weights: list[float] = unit[0].tolist()
    return weights


def distance(a: Tensor, b: Tensor) -> float:
    """Return the largest difference; of numbers that are alike NaN or infinite it is 0."""
    if a.shape != b.shape or not a.numel():
        return 0.0
    is_same = (a == b) | (a.isnan() & b.isnan())
    apart = torch.where(is_same, torch.zeros_like(a), (a - b).abs())
    return float(apart.nan_to_num(nan=torch.inf).max())


def apart(a: Values, b: Values) -> float:
    """Return the largest difference of the means, and of the losses where there is one each."""
    if len(a.losses) == 1 or a.losses.shape != b.losses.shape:
        return distance(torch.tensor([a.loss]), torch.tensor([b.loss]))
    return max(distance(a.losses, b.losses), abs(a.loss - b.loss))


def is_stepped(values: Tensor) -> bool:
    """Whether all are whole numbers, which small changes leave as they are."""
    return torch.equal(values.nan_to_num(), values.nan_to_num().round())


def largest(values: Tensor) -> float:
    """Return the largest modulus of the finite numbers; 0 if there are none."""
    finite = values[values.isfinite()]
    return float(finite.abs().max()) if finite.numel() else 0.0


def widened(model: nn.Module) -> nn.Module:
    """Bring a network to float64 and complex128."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_complex():
            tensor.data = tensor.data.to(torch.complex128)
        elif tensor.is_floating_point():
            tensor.data = tensor.data.to(torch.float64)
    return model


def cast(nested: Nested, dtype: torch.dtype) -> Nested:
    """Return numbers in a precision, complex ones in that precision, and integers as they are."""

    def one(tensor: Tensor) -> Tensor:
        if not (tensor.is_floating_point() or tensor.is_complex()):
            return tensor
        return tensor.to(dtype.to_complex() if tensor.is_complex() else dtype)

    return mapped(one, nested)


def inputs(raw: Nested, mean: Tensor | None, std: Tensor | None) -> Nested:
    """Return raw inputs as the network sees them, in float64; several are not normalised."""
    if not isinstance(raw, Tensor):
        return mapped(lambda tensor: _inputs(tensor, None, None), raw)
    return _inputs(raw, mean, std)


def _inputs(raw: Tensor, mean: Tensor | None, std: Tensor | None) -> Tensor:
    if raw.is_complex():
        return raw.to(torch.complex128)
    if not raw.is_floating_point() and raw.dtype != torch.uint8:
        return raw
    x = raw.double()
    if raw.dtype == torch.uint8:
        x = x / 255
    if mean is not None and std is not None:
        shape = [1, -1] + [1] * (x.ndim - 2)
        x = (x - mean.double().reshape(shape)) / std.double().reshape(shape)
    return x


def _has_statistics(module: nn.Module) -> bool:
    names = dict(module.named_buffers(recurse=False))
    kinds = ("running_mean", "running_var")
    return any(names.get(n) is not None for n in kinds) and hasattr(module, "momentum")


def _real(output: Any) -> Tensor:
    """Return outputs as one tensor of real numbers, those of several behind each other."""
    if isinstance(output, Tensor):
        return torch.view_as_real(output) if output.is_complex() else output
    inner = output.values() if isinstance(output, dict) else output
    parts = [part for part in map(_real, inner) if part.ndim]  # a loss of all is none of each
    return torch.cat([part.reshape(len(part), -1).double() for part in parts], 1)


def _joined(outputs: Sequence[Tensor]) -> Tensor:
    if len({o.shape[1:] for o in outputs}) == 1 and all(o.ndim for o in outputs):
        return torch.cat(list(outputs))
    return torch.zeros(0, dtype=torch.float64)
