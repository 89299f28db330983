"""Fused forward passes: the same function in fewer and cheaper steps.

In evaluation mode batch normalisation is an affine map, so it is folded into the convolution
or linear layer before it; sums of residual blocks and ReLUs are done by the convolution that
ends in them, in the memory of the other summand if nobody needs that any more.  The network
itself stays as it is: a `FusedForward` takes its numbers from the network's parameters and running
statistics whenever it is told that they have changed.

Shapes: N samples, C channels, F filters.
"""

from __future__ import annotations

import copy
import logging
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol
from typing import cast as cast_type

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from lsengine.objective.fused_convolution import convolution

log = logging.getLogger(__name__)
_ADDITIONS = (operator.add, operator.iadd, torch.add)
_RELUS = (torch.relu, torch.relu_, F.relu)


class FusedForward(Protocol):
    """A network's forward pass."""

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the outputs of a batch."""

    def sync_weights(self, *, weights_only: bool = False) -> None:
        """Take up the numbers that the network holds now.

        Args:
            weights_only: Whether nothing has changed since the last time but the weights of
                convolutions and linear layers: then the rest need not be looked at.
        """

    def scales(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """Return what folding multiplies each filter of some weights by, (F,) each, by name.

        None where nothing is folded, or where a weight has not one layer of its own.
        """

    def share(self, weights: Mapping[str, Tensor], views: Mapping[str, Tensor]) -> None:
        """From now on compute with the numbers in ``views`` in the place of folded weights."""


def eager(model: nn.Module) -> FusedForward:
    """Return the network's own forward pass."""
    return _Plain(model)


def fused(model: nn.Module, dtype: torch.dtype, sample: Tensor | None = None) -> FusedForward:
    """Return a fused forward pass of a network in evaluation mode.

    A network that cannot be traced is run as it is, in the given precision.

    Args:
        model: Float32, on its device, filters channels-last.
        dtype: Of inputs and activations: float32, bfloat16 or float16.
        sample: A few inputs in float32, by which the two are compared: tracing does not see, for
            instance, what a sum in place does to others who look at the same tensor.
    """
    try:
        network = _Fused(model, dtype)
        if sample is not None:
            _compare(network(sample.to(dtype)).float(), model(sample), dtype)
        return network
    except Exception as error:  # whatever a network does that tracing does not understand
        reason = " ".join(str(error).split())[:200]
        log.info("running without fused layers (%s: %s)", type(error).__name__, reason)
        return in_dtype(model, dtype)


def _compare(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    allowed = 1e-3 if dtype == torch.float32 else 0.2
    if not bool(expected.isfinite().all()):
        return  # nothing to compare by
    if float((found - expected).abs().max()) > allowed * float(expected.abs().max()) + 1e-6:
        raise NotImplementedError("its traced form is another function")


def in_dtype(model: nn.Module, dtype: torch.dtype) -> FusedForward:
    """Return the network's own forward pass in a precision, from a copy of it."""
    if all(p.dtype == dtype for p in model.parameters()):
        return _Plain(model)
    return _Cast(model, dtype)


class _Unfolded:
    def scales(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        return None

    def share(self, weights: Mapping[str, Tensor], views: Mapping[str, Tensor]) -> None:
        raise NotImplementedError


class _Plain(_Unfolded):
    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def __call__(self, inputs: Tensor) -> Tensor:
        output: Tensor = self._model(inputs)
        return output

    def sync_weights(self, *, weights_only: bool = False) -> None:
        """Nothing to do: the numbers are the network's own."""


class _Cast(_Unfolded):
    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        self._copy = copy.deepcopy(model).to(dtype)
        sources = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        targets = {**dict(self._copy.named_parameters()), **dict(self._copy.named_buffers())}
        self._pairs = [(targets[name], source) for name, source in sources.items()]

    def __call__(self, inputs: Tensor) -> Tensor:
        output: Tensor = self._copy(inputs)
        return output

    def sync_weights(self, *, weights_only: bool = False) -> None:
        for target, source in self._pairs:
            target.copy_(source)


class _Fused:
    """A traced network whose layers with parameters are all replaced by `_Layer`."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        traced = fx.symbolic_trace(model)
        self._layers: list[_Layer] = []
        replaced: set[fx.Node] = set()
        for node in list(traced.graph.nodes):
            if node.op == "call_module" and node not in replaced:
                replaced.update(self._replace(traced, node, dtype))
        traced.delete_all_unused_submodules()
        held = {id(p) for layer in self._layers for p in layer.parameters()}
        if any(id(p) not in held for p in traced.parameters()):
            raise NotImplementedError("it has parameters outside of its layers")
        self._norms = _Norms([layer for layer in self._layers if layer.norm is not None])
        _reuse_summands(traced)
        traced.graph.lint()
        traced.recompile()
        self._traced = traced
        self.sync_weights()

    def __call__(self, inputs: Tensor) -> Tensor:
        output: Tensor = self._traced(inputs)
        return output

    def sync_weights(self, *, weights_only: bool = False) -> None:
        if not weights_only:
            self._norms.sync_weights()
        for layer in self._layers:
            layer.refresh_weight()
            if not weights_only:
                layer.refresh_bias()

    def scales(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        found = {}
        for name, weight in weights.items():
            users = self._users(weight)
            if len(users) != 1 or len(weight) != len(users[0].weight):
                return None
            affine = users[0].affine
            found[name] = weight.new_ones(len(weight)) if affine is None else affine[0]
        return found

    def share(self, weights: Mapping[str, Tensor], views: Mapping[str, Tensor]) -> None:
        for name, weight in weights.items():
            self._users(weight)[0].weight = views[name]

    def _users(self, weight: Tensor) -> list[_Layer]:
        return [layer for layer in self._layers if layer.takes(weight)]

    def _replace(self, traced: fx.GraphModule, node: fx.Node, dtype: torch.dtype) -> list[fx.Node]:
        """Put one layer in the place of a chain of nodes, and return the chain."""
        module = traced.get_submodule(str(node.target))
        matched, norm, other = [node], None, None
        if isinstance(module, nn.Conv2d | nn.Linear):
            following = _only_user(node)
            norm = _module(traced, following, _BatchNorm)
            if norm is not None and following is not None:
                matched.append(following)
        elif not isinstance(module, _BatchNorm):
            return []
        if isinstance(module, nn.Conv2d) and (added := _added(matched[-1])) is not None:
            matched.append(added[0])
            other = added[1]
        following = _only_user(matched[-1])
        relu = following is not None and _is_relu(traced, following)
        if relu and following is not None:
            matched.append(following)
        layer = _LAYERS[type(module)](module, norm, relu=relu, dtype=dtype)
        name = f"fused_{len(self._layers)}"
        traced.add_submodule(name, layer)
        self._layers.append(layer)
        with traced.graph.inserting_before(matched[-1]):
            inputs = (node.args[0],) if other is None else (node.args[0], other)
            new = traced.graph.call_module(name, inputs)
        matched[-1].replace_all_uses_with(new)
        for old in reversed(matched):
            traced.graph.erase_node(old)
        return matched


class _Layer(nn.Module):
    """A layer with its batch normalisation folded in, in a precision of its own.

    Args:
        layer: Where the weights come from.
        norm: The normalisation of its output, if there is one.
        relu: Whether a ReLU ends it.
        dtype: Of weights and activations.
    """

    weight: Tensor
    bias: Tensor | None
    affine: tuple[Tensor, Tensor] | None = None
    """Scale and shift of the normalisation, (F,) each."""

    def __init__(
        self, layer: nn.Module, norm: _BatchNorm | None, *, relu: bool, dtype: torch.dtype
    ) -> None:
        super().__init__()
        if norm is not None and (norm.running_mean is None or norm.running_var is None):
            raise NotImplementedError("a normalisation without running statistics")
        self._source, self.norm, self._relu = layer, norm, relu
        weight, bias = cast_type(Tensor, layer.weight).detach(), cast_type(Any, layer.bias)
        if norm is not None and bias is None:
            bias = weight.new_empty(norm.num_features)
        self.register_buffer("weight", torch.empty_like(weight, dtype=dtype))
        self.register_buffer("bias", None if bias is None else bias.detach().to(dtype, copy=True))

    def takes(self, weight: Tensor) -> bool:
        """Whether this is the weight that is folded in here."""
        return self._source.weight is weight

    def refresh_weight(self) -> None:
        """Take up the layer's weight, times the scale of the normalisation."""
        weight = cast_type(Tensor, self._source.weight).detach()
        if self.affine is not None:
            weight = weight * self.affine[0].view(-1, *[1] * (weight.ndim - 1))
        self.weight.copy_(weight)

    def refresh_bias(self) -> None:
        """Take up the layer's bias, scaled and shifted by the normalisation."""
        bias: Any = self._source.bias
        if self.affine is not None:
            scale_F, shift_F = self.affine
            bias = shift_F if bias is None else torch.addcmul(shift_F, bias.detach(), scale_F)
        if self.bias is not None:
            self.bias.copy_(bias)


class _Convolution(_Layer):
    def __init__(self, layer: nn.Conv2d, norm: _BatchNorm | None, **more: Any) -> None:
        if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
            raise NotImplementedError(f"a convolution with padding {layer.padding!r}")
        super().__init__(layer, norm, **more)
        self._where = (layer.stride, layer.padding, layer.dilation, layer.groups)
        self._apply_it = convolution(layer.weight.device, self.weight.dtype)
        self.into_other = False

    def forward(self, x_NCHW: Tensor, other_NFHW: Tensor | None = None) -> Tensor:
        numbers = (self.weight, self.bias, other_NFHW, self._relu)
        return self._apply_it(x_NCHW, *numbers, *self._where, into_other=self.into_other)


class _Linear(_Layer):
    def forward(self, x_NC: Tensor) -> Tensor:
        output = F.linear(x_NC, self.weight, self.bias)
        return torch.relu_(output) if self._relu else output


class _Norm(_Layer):
    """A batch normalisation that no layer precedes: one affine map."""

    def __init__(self, layer: _BatchNorm, norm: None, *, relu: bool, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)
        if layer.running_mean is None or layer.running_var is None:
            raise NotImplementedError("a normalisation without running statistics")
        self.norm, self._relu = layer, relu
        self.register_buffer("weight", torch.empty_like(layer.running_mean, dtype=dtype))
        self.register_buffer("bias", torch.empty_like(layer.running_mean, dtype=dtype))

    def takes(self, weight: Tensor) -> bool:
        return False

    def refresh_weight(self) -> None:
        assert self.affine is not None
        self.weight.copy_(self.affine[0])

    def refresh_bias(self) -> None:
        assert self.affine is not None
        assert self.bias is not None
        self.bias.copy_(self.affine[1])

    def forward(self, x_NC: Tensor) -> Tensor:
        assert self.bias is not None
        shape = (-1, *[1] * (x_NC.ndim - 2))
        output = torch.addcmul(self.bias.view(shape), x_NC, self.weight.view(shape))
        return torch.relu_(output) if self._relu else output


class _Norms:
    """The normalisations of several layers, made affine maps in a few steps for all of them."""

    def __init__(self, layers: Sequence[_Layer]) -> None:
        self._layers = layers
        self._norms = [cast_type(_BatchNorm, layer.norm) for layer in layers]
        self._sizes = [norm.num_features for norm in self._norms]
        eps = [
            self._statistic(norm, "running_var").new_full((norm.num_features,), norm.eps)
            for norm in self._norms
        ]
        self._eps_F = torch.cat(eps) if eps else None

    def sync_weights(self) -> None:
        """Give every layer the scale and shift, (F,) each, that its normalisation has now."""
        if self._eps_F is None:
            return
        mean_F, var_F, weight_F, bias_F = (
            torch.cat([self._statistic(norm, name) for norm in self._norms])
            for name in ("running_mean", "running_var", "weight", "bias")
        )
        scale_F = torch.rsqrt(var_F.add_(self._eps_F)).mul_(weight_F)
        shift_F = bias_F.addcmul_(mean_F, scale_F, value=-1)
        pieces = zip(scale_F.split(self._sizes), shift_F.split(self._sizes), strict=True)
        for layer, affine in zip(self._layers, pieces, strict=True):
            layer.affine = affine

    @staticmethod
    def _statistic(norm: _BatchNorm, name: str) -> Tensor:
        found: Tensor | None = getattr(norm, name)
        if found is not None:
            return found.detach()
        assert norm.running_var is not None
        return torch.full_like(norm.running_var, 1.0 if name == "weight" else 0.0)


_LAYERS: dict[type, Callable[..., _Layer]] = {
    nn.Conv2d: _Convolution,
    nn.Linear: _Linear,
    nn.BatchNorm1d: _Norm,
    nn.BatchNorm2d: _Norm,
}


def _reuse_summands(traced: fx.GraphModule) -> None:
    """Let sums overwrite the other summand where it is a layer's own output, used up by then.

    Only layers may use it, since they return no views of their input; and it must not be what
    is convolved.
    """
    layers: dict[fx.Node, _Layer] = {}
    place: dict[fx.Node, int] = {}
    for position, node in enumerate(traced.graph.nodes):
        place[node] = position
        if node.op == "call_module" and isinstance(
            layer := traced.get_submodule(str(node.target)), _Layer
        ):
            layers[node] = layer
    for node, layer in layers.items():
        if not isinstance(layer, _Convolution) or len(node.args) != 2:
            continue
        convolved, other = node.args
        if isinstance(other, fx.Node) and other in layers and other is not convolved:
            layer.into_other = all(u in layers and place[u] <= place[node] for u in other.users)


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _module(traced: fx.GraphModule, node: fx.Node | None, kind: type[Any]) -> Any:
    if node is None or node.op != "call_module":
        return None
    module = traced.get_submodule(str(node.target))
    return module if isinstance(module, kind) else None


def _added(node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
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
    return _module(traced, node, nn.ReLU) is not None
