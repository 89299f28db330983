"""Fused forward passes: the same function in fewer and cheaper steps.

In evaluation mode batch normalisation is an affine map, so it is folded into the convolution
or linear layer before it.  Sums of residual blocks and ReLUs are done by the convolution that
ends in them, in the memory of the other summand if nobody needs that any more.  The network
itself stays as it is: a fused pass copies its numbers from it when told to.
"""

from __future__ import annotations

import contextlib
import logging
import operator
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from lsengine import devices
from lsengine.convolution import convolutions
from lsengine.log import NOTICE
from lsengine.models.layers import BatchNorm
from lsengine.objective.forward import ForwardPass, Manner, in_dtype, in_row_major
from lsengine.objective.fused_layers import (
    FUSED_LAYERS,
    CannotFuse,
    FusedConvolution,
    FusedLayer,
    Norms,
)

log = logging.getLogger(__name__)
_ADDITIONS = (operator.add, operator.iadd, torch.add)
_TAME = 1e-6  # of the largest number of a precision
_RELUS = (torch.relu, torch.relu_, F.relu)


def fused(
    model: nn.Module, dtype: torch.dtype, sample: Tensor | None = None, *, tf32: bool = False
) -> ForwardPass:
    """Return a fused forward pass of a network in evaluation mode.

    A network that cannot be fused is run as it is, in the given precision.  That is slower and
    has other last bits, so every rank says it.

    Args:
        model: Float32, on its device, filters channels-last.
        dtype: Of inputs and activations: float32, bfloat16 or float16.
        sample: A few inputs in float32, by which the two are compared: tracing does not see, for
            instance, what a sum in place does to others who look at the same tensor.
        tf32: Whether factors of float32 products may be rounded.
    """
    try:
        return _compared(model, dtype, sample, tf32=tf32)
    except CannotFuse as error:
        reason = " ".join(str(error).split())[:200]
    log.log(NOTICE, "running without fused layers, which is slower: %s", reason)
    # There cuDNN has no fast kernels for channels-last.
    is_full_on_cuda = (
        any(p.is_cuda for p in model.parameters()) and dtype == torch.float32 and not tf32
    )
    return in_row_major(model, dtype) if is_full_on_cuda else in_dtype(model, dtype)


def kind_of_pass(
    model: nn.Module, dtype: torch.dtype, sample: Tensor, *, tf32: bool = False
) -> str:
    """Return the kind of pass that `fused` returns; only tried, so nothing is logged."""
    try:
        return _compared(model, dtype, sample, tf32=tf32).kind
    except CannotFuse:
        return str(Manner())


def _compared(
    model: nn.Module, dtype: torch.dtype, sample: Tensor | None, *, tf32: bool = False
) -> ForwardPass:
    """Return a fused pass whose outputs of a sample are those of the network."""
    precision = "tf32" if tf32 else str(dtype).removeprefix("torch.")
    if sample is None:
        return FusedForward(model, dtype, precision)
    expected = model(sample)
    network = FusedForward(model, dtype, precision)
    with _code_of_the_network():
        outputs = network(sample.to(dtype)).float()
    if bool(expected.isfinite().all()):  # else there is nothing to compare by
        allowed = 1e-3 if dtype == torch.float32 else 0.2
        if float((outputs - expected).abs().max()) > allowed * float(expected.abs().max()) + 1e-6:
            raise CannotFuse("its traced form is another function")
    return network


@contextlib.contextmanager
def _code_of_the_network() -> Iterator[None]:
    """Turn what a network's own code raises when it is traced into a `CannotFuse`.

    Tracing calls it with stand-ins for tensors, and that may provoke anything.  That there is no
    memory is another matter: then the network as it is would not fare better.
    """
    try:
        yield
    except Exception as error:
        if devices.is_out_of_memory(error):
            raise
        raise CannotFuse(f"{type(error).__name__}: {error}") from error


class FusedForward(ForwardPass):
    """The pass of a traced network whose layers with parameters are all fused ones.

    Its kind is ``fused``, on CUDA with what convolves (``fused (triton 20, steps 1)``).

    Raises:
        CannotFuse: If something in the network does not fit.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype, precision: str) -> None:
        with _code_of_the_network():
            traced = fx.symbolic_trace(model)
        super().__init__(traced)
        self._layers: list[FusedLayer] = []
        replaced: set[fx.Node] = set()
        for node in list(traced.graph.nodes):
            if node not in replaced and (chain := _chain(traced, node)) is not None:
                self._replace(traced, chain, dtype)
                replaced.update(chain.nodes)
        traced.delete_all_unused_submodules()
        of_layers = {id(p) for layer in self._layers for p in layer.parameters()}
        if any(id(p) not in of_layers for p in traced.parameters()):
            raise CannotFuse("it has parameters outside of its layers")
        self._norms = Norms(self._layers)
        _reuse_summands(traced)
        self.kind = self._choose_kernels(precision)
        traced.graph.lint()
        traced.recompile()
        self.sync()

    def _choose_kernels(self, precision: str) -> str:
        """Give every convolution its kernel, and return the kind of the pass."""
        layers = [layer for layer in self._layers if isinstance(layer, FusedConvolution)]
        if not layers:
            return "fused"
        device = layers[0].weight.device
        found = convolutions([layer.geometry for layer in layers], device, precision)
        for layer, convolution in zip(layers, found, strict=True):
            layer.convolve = convolution.convolve
        counts = Counter(convolution.kernel for convolution in found)
        if device.type != "cuda":  # one kernel does all
            return "fused"
        return f"fused ({', '.join(f'{kernel} {n}' for kernel, n in counts.most_common())})"

    def _replace(self, traced: fx.GraphModule, chain: _Chain, dtype: torch.dtype) -> None:
        """Put one layer in the place of a chain of nodes."""
        module, first, last = chain.module, chain.nodes[0], chain.nodes[-1]
        if type(module) not in FUSED_LAYERS:
            raise CannotFuse(f"a {type(module).__name__}, which may be more than its base class")
        if len(first.args) != 1 or first.kwargs:
            raise CannotFuse(f"a {type(module).__name__} called with names of arguments")
        layer = FUSED_LAYERS[type(module)](module, chain.norm, relu=chain.relu, dtype=dtype)
        name = f"fused_{len(self._layers)}"
        traced.add_submodule(name, layer)
        self._layers.append(layer)
        # In the place of the last node, not of the first: the other summand of a sum may be
        # computed only between the two.
        with traced.graph.inserting_before(last):
            inputs = (*first.args, *([] if chain.summand is None else [chain.summand]))
            new = traced.graph.call_module(name, inputs)
        last.replace_all_uses_with(new)
        for node in reversed(chain.nodes):  # a node can go when nobody uses it any more
            traced.graph.erase_node(node)

    def sync(self) -> None:
        """Fold all numbers of the network anew."""
        self._norms.sync()
        for layer in self._layers:
            layer.sync()

    def is_tame(self, sample: Tensor) -> bool:
        """Whether all folded numbers are finite, and all activations far from overflowing.

        Otherwise a fused ReLU may make 0 of what is NaN: oneDNN's does.  Weights make activations
        overflow, so a few samples tell it, with a margin for the others.
        """
        if sample.device.type != "cpu" or sample.dtype == torch.float16:
            return True  # no fused ReLU of oneDNN's; others keep NaN
        tensors = [t for layer in self._layers for t in (layer.weight, layer.bias)]
        largest: list[Tensor] = [t.sum() for t in tensors if t is not None]  # NaN, infinite
        for layer in self._layers:
            layer.seen = largest
        outputs = self(sample)
        for layer in self._layers:
            layer.seen = None
        values = torch.stack([value.float() for value in (*largest, outputs.abs().max())])
        return bool((values.abs() < _TAME * torch.finfo(sample.dtype).max).all())

    def fold_scales(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """Return the scales of the normalisations that follow the weights' layers."""
        scales = {}
        for name, weight in weights.items():
            users = self._users(weight)
            if len(users) != 1 or len(weight) != len(users[0].weight):
                return None
            affine = users[0].affine
            scales[name] = affine[0] if affine else weight.new_ones(len(weight))
        return scales

    def bind_views(self, weights: Mapping[str, Tensor], views: Mapping[str, Tensor]) -> None:
        """Let the weights' layers look at the views."""
        for name, weight in weights.items():
            self._users(weight)[0].weight = views[name]

    def _users(self, weight: Tensor) -> list[FusedLayer]:
        return [layer for layer in self._layers if layer.source.weight is weight]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chain:
    """Nodes that one fused layer replaces.

    Attributes:
        nodes: In order: a layer, its normalisation, a sum, a ReLU, each but the first only where
            it is there.  Nobody but the next node sees the output of one.
        module: The layer.
        norm: Its normalisation, if one follows.
        summand: What is added to its output, if something is.
        relu: Whether a ReLU ends it.
    """

    nodes: list[fx.Node]
    module: nn.Module
    norm: BatchNorm | None
    summand: fx.Node | None
    relu: bool


def _chain(traced: fx.GraphModule, node: fx.Node) -> _Chain | None:
    """Return the longest chain that begins with a node, if the node is a layer to be fused."""
    module = _module(traced, node)
    if not isinstance(module, nn.Conv2d | nn.Linear | BatchNorm):
        return None
    nodes, norm, summand, relu = [node], None, None, False
    if not isinstance(module, BatchNorm) and (following := _only_user(node)) is not None:
        follower = _module(traced, following)
        if isinstance(follower, BatchNorm):
            norm = follower
            nodes.append(following)
    if isinstance(module, nn.Conv2d) and (addition := _addition(nodes[-1])) is not None:
        total, summand = addition
        nodes.append(total)
    if (following := _only_user(nodes[-1])) is not None and _is_relu(traced, following):
        relu = True
        nodes.append(following)
    return _Chain(nodes=nodes, module=module, norm=norm, summand=summand, relu=relu)


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _module(traced: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """Return the module that a node calls, if it calls one."""
    return traced.get_submodule(str(node.target)) if node.op == "call_module" else None


def _addition(node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """Return the sum that a node ends in and the other summand, if it is a sum of two nodes."""
    following = _only_user(node)
    if following is None or following.op != "call_function" or following.kwargs:
        return None
    if following.target not in _ADDITIONS or len(following.args) != 2:
        return None
    if following.target is operator.iadd and following.args[0] is not node:
        return None  # it changes the other summand, which others may look at
    others = [a for a in following.args if a is not node]
    if len(others) == 1 and isinstance(others[0], fx.Node):
        return following, others[0]
    return None


def _is_relu(traced: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_function":
        return node.target in _RELUS
    if node.op == "call_method":
        return node.target in ("relu", "relu_")
    return isinstance(_module(traced, node), nn.ReLU)


def _reuse_summands(traced: fx.GraphModule) -> None:
    """Let sums overwrite the other summand where it is a layer's own output, used up by then.

    Only layers may use it, since they return no views of their input; and it must not be what
    is convolved.
    """
    position = {node: number for number, node in enumerate(traced.graph.nodes)}
    layers = {n: layer for n in position if isinstance(layer := _module(traced, n), FusedLayer)}
    for node, layer in layers.items():
        if not isinstance(layer, FusedConvolution) or len(node.args) != 2:
            continue
        convolved, other = node.args
        if isinstance(other, fx.Node) and other in layers and other is not convolved:
            layer.into_other = all(
                user in layers and position[user] <= position[node] for user in other.users
            )
