"""Products of the Hessian of a mean loss with a vector, in several ways.

Shape suffixes: N samples of a batch, P numbers of the chosen parameters.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp

from lsengine import devices
from lsengine.curvature import batches as parts_of
from lsengine.curvature import states
from lsengine.curvature.batches import Batch
from lsengine.curvature.differences import DisplacedGradients
from lsengine.data.nesting import Nested, count, mapped
from lsengine.models import calling

Loss = Callable[[Any, Any], Any]
Call = Callable[[nn.Module, Nested], Any]
Tensors = dict[str, Tensor]
_grad = torch.autograd.grad  # what a forward pass calls may be replaced


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How products are computed.

    Attributes:
        kind: ``forward``: backwards through the directional derivative of the loss.
            ``reverse``: two backward passes.  ``differences``: of gradients.
        plain_kernels: Without cuDNN and oneDNN.
        inner_graphs: With the graphs of derivatives that the forward pass takes itself.
        exact: Whether differences are of gradients in float64.
    """

    kind: Literal["forward", "reverse", "differences"] = "forward"
    plain_kernels: bool = False
    inner_graphs: bool = False
    exact: bool = True

    def __str__(self) -> str:
        flags = {"plain kernels": self.plain_kernels, "inner graphs": self.inner_graphs}
        if self.kind == "differences":
            flags["float64" if self.exact else "float32"] = True
        return ", ".join([self.kind, *(flag for flag, is_set in flags.items() if is_set)])


class Products:
    """A network, a loss and the parameters that its Hessian is by.

    Vectors hold the parameters in the order of the model, each flattened in row-major order.  A
    complex number is two real ones, its real and its imaginary part.

    The loss gets a tensor in float64, and what else ``call`` makes of network and inputs as it is.
    With ``keeps_batches`` a loss may depend on the whole batch, which is cut nowhere.

    Attributes:
        names: The parameters.
        size: P, the length of a vector.
        dtype, device: Of vectors; parameters may be narrower.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        names: Iterable[str],
        *,
        call: Call = calling.call,
        keeps_batches: bool = False,
        tf32: bool = False,
    ) -> None:
        self.model, self.loss, self._tf32 = model, loss, tf32
        self.call, self.keeps_batches = call, keeps_batches
        chosen = set(names)
        everything = dict(model.named_parameters())
        self._parameters: Tensors = {n: p for n, p in everything.items() if n in chosen}
        self.names = list(self._parameters)
        self._padding = _padding_rows(model, self._parameters)
        self.size = sum(_numbers(p) for p in self._parameters.values())
        kinds = {p.device for p in self._parameters.values()}
        if len(kinds) != 1:
            raise ValueError(f"expected parameters on one device; got {sorted(map(str, kinds))}")
        self.device = kinds.pop()
        self.dtype = torch.float32
        for p in self._parameters.values():
            self.dtype = torch.promote_types(self.dtype, p.dtype).to_real()
        # On CUDA float32 is fast in row-major order only.
        is_safe = devices.is_channels_last_safe(model, self.device)
        self._as_it_is = is_safe and self.device.type != "cuda"

    def unflatten(self, vector_P: Tensor) -> Tensors:
        """View a vector (P,) as tensors like the parameters; of complex ones they are copies."""
        pieces = self._real_views(vector_P)
        for name, parameter in self._parameters.items():
            if parameter.is_complex():
                pieces[name] = torch.view_as_complex(pieces[name].clone())
        return pieces

    def hold_(self, vector_P: Tensor) -> None:
        """Set the numbers of a vector to zero that no training changes: rows of padding."""
        if self._padding:
            pieces = self._real_views(vector_P)
            for name, row in self._padding.items():
                pieces[name][row] = 0

    def shares(self, batches: Sequence[Batch], way: Way) -> list[float]:
        """Return the share of each batch in the mean over all samples.

        That is its share of the samples, or of the weights if the loss returns weights.
        """
        few = batches[0] if self.keeps_batches else parts_of.first(batches[0], 2)
        with self._state(way):
            if not isinstance(self._losses(few), tuple | list):
                sizes = [count(inputs) for inputs, _ in batches]
                return [size / sum(sizes) for size in sizes]
            weights = [float(self._losses(batch)[1].detach().sum()) for batch in batches]
        return [weight / sum(weights) if sum(weights) else math.nan for weight in weights]

    def product(
        self,
        batches: Sequence[Batch],
        shares: Sequence[float],
        vector_P: Tensor,
        way: Way,
        tick: Callable[[], None] = lambda: None,
    ) -> Tensor:
        """Return the product (P,) at the model's present weights."""
        how = {"forward": self._forward, "reverse": self._reverse, "differences": self._quotients}
        with self._state(way):
            # a clone made outside of inference mode is a tensor that autograd accepts
            vector_P = vector_P.clone() if vector_P.is_inference() else vector_P.detach()
            if self._padding:
                vector_P = vector_P.clone()
                self.hold_(vector_P)
            result_P = torch.zeros_like(vector_P)
            with how[way.kind](vector_P) as share_of:
                totals = self._real_views(result_P)
                for batch, share in zip(batches, shares, strict=True):
                    tick()
                    if share == 0:  # every weight is zero: the batch has no mean
                        continue
                    for name, part in share_of(batch).items():
                        real = torch.view_as_real(part) if part.is_complex() else part
                        totals[name].add_(real, alpha=share)
        self.hold_(result_P)
        return result_P

    @contextlib.contextmanager
    def _state(self, way: Way) -> Iterator[None]:
        flags = {"plain_kernels": way.plain_kernels, "inner_graphs": way.inner_graphs}
        with states.differentiating(**flags, tf32=self._tf32), contextlib.ExitStack() as stack:
            if way.kind == "differences" and way.exact:
                stack.enter_context(states.in_float64(self.model))
            yield

    @contextlib.contextmanager
    def _forward(self, vector_P: Tensor) -> Iterator[Callable[[Batch], Tensors]]:
        """Differentiate the directional derivative of the loss.

        Backwards by plain autograd: ``torch.func.grad`` loads the compiler, which takes every
        worker two seconds.
        """
        fixed = {name: self._laid_out(p) for name, p in self.model.named_parameters()}
        weights = {name: fixed.pop(name) for name in self.names}
        tangents = self._tangents(vector_P)

        def share_of(batch: Batch) -> Tensors:
            def mean_loss(moved: Tensors) -> Tensor:
                return _mean(self._losses(batch, {**fixed, **moved}))

            leaves = {name: w.detach().requires_grad_() for name, w in weights.items()}
            slope = jvp(mean_loss, (leaves,), (tangents,))[1]
            return _gradients([slope], leaves, [None])

        yield share_of

    @contextlib.contextmanager
    def _reverse(self, vector_P: Tensor) -> Iterator[Callable[[Batch], Tensors]]:
        """Differentiate the gradient's product with the vector, by plain autograd.

        By the network's own parameters, so that whatever holds one takes part.
        """
        tangents = list(self._tangents(vector_P).values())

        def share_of(batch: Batch) -> Tensors:
            mean_loss = _mean(self._losses(batch))
            if not mean_loss.requires_grad:
                return {}
            inputs = list(self._parameters.values())
            gradient = _grad(mean_loss, inputs, create_graph=True, materialize_grads=True)
            return _gradients(gradient, self._parameters, tangents)

        with states.as_leaves(self.model, [*self._parameters.values()], not self._as_it_is):
            yield share_of

    @contextlib.contextmanager
    def _quotients(self, vector_P: Tensor) -> Iterator[Callable[[Batch], Tensors]]:
        """Take differences of gradients, which are computed by plain ``backward``."""
        with (
            states.as_leaves(self.model, [*self._parameters.values()], not self._as_it_is),
            DisplacedGradients(self._parameters, self._tangents(vector_P)) as gradients,
        ):

            def share_of(batch: Batch) -> Tensors:
                def sums(part: Batch) -> tuple[Tensor, Tensor]:
                    return _sum(self._losses(part), count(part[0]))

                return gradients.quotient(sums, batch, whole=self.keeps_batches)

            yield share_of

    def _losses(self, batch: Batch, weights: Tensors | None = None) -> Any:
        """Return what the loss makes of a batch; nothing that the forward pass writes stays.

        By other weights than the network's, if they are given.
        """
        inputs, targets = batch
        if all(p.dtype.to_real() == torch.float64 for p in self._parameters.values()):
            inputs = parts_of.wide(inputs)
        inputs = mapped(lambda tensor: self._laid_out(tensor).clone(), inputs)
        with states.undisturbed(self.model):
            if weights is None:
                output = self.call(self.model, inputs)
            else:
                output = _called_with(weights, self.model, self.call, inputs)
        if isinstance(output, Tensor) and isinstance(targets, Tensor):
            output = states.wide(output.to(targets.device))
        return self.loss(output, targets)

    def _laid_out(self, tensor: Tensor) -> Tensor:
        """Return a constant of a product in an order of memory that it survives."""
        return tensor.detach() if self._as_it_is else devices.row_major(tensor)

    def _real_views(self, vector_P: Tensor) -> Tensors:
        """View a vector as real tensors; a complex parameter has a last axis of two."""
        if vector_P.shape != (self.size,):
            raise ValueError(f"expected shape [{self.size}], got {[*vector_P.shape]}")
        like = {
            n: torch.view_as_real(p) if p.is_complex() else p for n, p in self._parameters.items()
        }
        pieces = vector_P.split([p.numel() for p in like.values()])
        return {n: piece.view(p.shape) for (n, p), piece in zip(like.items(), pieces, strict=True)}

    def _tangents(self, vector_P: Tensor) -> Tensors:
        """Return a vector as tensors of the parameters' own dtypes."""
        pieces = self.unflatten(vector_P)
        return {name: piece.to(self._parameters[name].dtype) for name, piece in pieces.items()}


class _Called(nn.Module):
    """A call of a network, as a module."""

    def __init__(self, network: nn.Module, call: Call) -> None:
        super().__init__()
        self.network, self._call = network, call

    def forward(self, inputs: Nested) -> Any:
        return self._call(self.network, inputs)


def _called_with(weights: Tensors, model: nn.Module, call: Call, inputs: Nested) -> Any:
    """Call a network with other weights."""
    if call is calling.call and isinstance(inputs, Tensor):
        return functional_call(model, weights, (inputs,))
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError("a compiled module cannot be called with other weights")
    named = {f"network.{name}": tensor for name, tensor in weights.items()}
    return functional_call(_Called(model, call), named, (inputs,))


def _padding_rows(model: nn.Module, parameters: Tensors) -> dict[str, int]:
    """Return the rows that embeddings give no gradient, by the name of their weight.

    Of a weight that another module has, too, they may get one there.
    """
    modules = [*model.modules()]
    owners = Counter(id(p) for m in modules for p in m._parameters.values())
    rows = {
        id(m.weight): m.padding_idx
        for m in modules
        if isinstance(m, nn.Embedding | nn.EmbeddingBag) and m.padding_idx is not None
    }
    return {n: rows[id(p)] for n, p in parameters.items() if id(p) in rows and owners[id(p)] == 1}


def _mean(losses: Any) -> Tensor:
    if isinstance(losses, tuple | list):
        values, weights = losses
        mean: Tensor = (values * weights).sum() / weights.sum()
    else:
        mean = losses.mean()
    return mean


def _sum(losses: Any, samples: int) -> tuple[Tensor, Tensor]:
    """Return the sum of losses, and that of their weights; a mean counts for all its samples."""
    if isinstance(losses, tuple | list):
        values, weights = losses
        return (values * weights).sum(), weights.detach().sum()
    return losses.mean() * samples, torch.tensor(samples)


def _gradients(
    outputs: Sequence[Tensor], leaves: Tensors, factors: Sequence[Tensor | None]
) -> Tensors:
    """Return the gradients, by name, of the sum of outputs times factors.

    Outputs that depend on no leaf count as constants, as does the slope of a loss linear in
    the parameters.
    """
    pairs = [(o, f) for o, f in zip(outputs, factors, strict=False) if o.requires_grad]
    if not pairs:
        return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    terms, weights = zip(*pairs, strict=True)
    rows = _grad(terms, list(leaves.values()), weights, materialize_grads=True)
    return dict(zip(leaves, rows, strict=True))


def _numbers(parameter: Tensor) -> int:
    return parameter.numel() * (2 if parameter.is_complex() else 1)
