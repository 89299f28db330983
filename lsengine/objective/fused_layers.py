"""Layers with their batch normalisation folded in, of which fused forward passes are made.

A convolution does the sum and the ReLU after it as well, in one step where that is possible.

Shapes: N samples, C channels, F filters.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lsengine.log import NOTICE
from lsengine.models.layers import BatchNorm

log = logging.getLogger(__name__)
Convolve = Callable[..., Tensor]
TRIED_WITH = ("2.13",)  # versions of torch whose private operators are known to do this


class CannotFuse(Exception):
    """A network has something that fused layers do not do."""


class FusedLayer(nn.Module):
    """A layer with its batch normalisation, if there is one, folded in, in its own precision.

    Attributes:
        source: The layer itself, whose numbers are folded in.
        affine: Scale and shift of the normalisation, (F,) each; None without one.

    Raises:
        CannotFuse: If the normalisation has no running statistics.
    """

    weight: Tensor
    bias: Tensor | None
    seen: list[Tensor] | None = None  # where the largest modulus of each output is noted

    def note(self, output: Tensor) -> Tensor:
        """Return the output of the layer, noted if somebody wants it."""
        if self.seen is not None:
            self.seen.append(output.abs().amax())
        return output

    def __init__(
        self, layer: nn.Module, norm: BatchNorm | None, *, relu: bool, dtype: torch.dtype
    ) -> None:
        super().__init__()
        if norm is not None and (norm.running_mean is None or norm.running_var is None):
            raise CannotFuse("a normalisation without running statistics")
        self.source, self.norm, self._relu = layer, norm, relu
        self.affine: tuple[Tensor, Tensor] | None = None
        weight, bias = self._own("weight"), self._own("bias")
        if norm is not None and bias is None:
            bias = torch.empty_like(cast(Tensor, norm.running_mean))
        like = bias if weight is None else weight
        self.register_buffer("weight", torch.empty_like(cast(Tensor, like), dtype=dtype))
        self.register_buffer("bias", None if bias is None else bias.to(dtype, copy=True))

    def _own(self, name: str) -> Tensor | None:
        """Return the layer's own weight or bias."""
        tensor = cast("Tensor | None", getattr(self.source, name))
        return None if tensor is None else tensor.detach()

    def sync(self) -> None:
        """Take up the layer's weight and bias, scaled and shifted by the normalisation."""
        weight, bias = self._own("weight"), self._own("bias")
        if self.affine is not None:
            scale_F, shift_F = self.affine
            shape = (-1, *[1] * (self.weight.ndim - 1))
            weight = scale_F if weight is None else weight * scale_F.view(shape)
            bias = shift_F if bias is None else torch.addcmul(shift_F, bias, scale_F)
        self.weight.copy_(cast(Tensor, weight))
        if self.bias is not None:
            self.bias.copy_(cast(Tensor, bias))


class FusedConvolution(FusedLayer):
    """A convolution, perhaps with a summand added to its output.

    Attributes:
        into_other: Whether the sum may overwrite the summand.
    """

    def __init__(self, layer: nn.Conv2d, norm: BatchNorm | None, **options: Any) -> None:
        if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
            raise CannotFuse(f"a convolution with padding {layer.padding!r}")
        super().__init__(layer, norm, **options)
        self._geometry = (layer.stride, layer.padding, layer.dilation, layer.groups)
        self._convolve = convolution(layer.weight.device, self.weight.dtype)
        self.into_other = False

    def forward(self, x_NCHW: Tensor, other_NFHW: Tensor | None = None) -> Tensor:
        """Return the output, (N, F, H', W'), plus the summand, rectified."""
        numbers = (self.weight, self.bias, other_NFHW, self._relu)
        output = self._convolve(x_NCHW, *numbers, *self._geometry, into_other=self.into_other)
        return self.note(output)


class _Linear(FusedLayer):
    def forward(self, x_NC: Tensor) -> Tensor:
        output = F.linear(x_NC, self.weight, self.bias)
        return self.note(torch.relu_(output) if self._relu else output)


class _Norm(FusedLayer):
    """A batch normalisation that no layer precedes: one affine map."""

    def __init__(self, layer: BatchNorm, _: None, **options: Any) -> None:
        super().__init__(layer, layer, **options)

    def _own(self, name: str) -> Tensor | None:
        return None  # scale and shift have the normalisation's own numbers in them

    def forward(self, x_NC: Tensor) -> Tensor:
        assert self.bias is not None
        shape = (-1, *[1] * (x_NC.ndim - 2))
        output = torch.addcmul(self.bias.view(shape), x_NC, self.weight.view(shape))
        return torch.relu_(output) if self._relu else output


class Norms:
    """The normalisations of several layers, made affine maps in a few steps for all of them.

    One by one they would take as long as a small network's forward pass.
    """

    def __init__(self, layers: Sequence[FusedLayer]) -> None:
        self._layers = [layer for layer in layers if layer.norm is not None]
        self._norms = [cast(BatchNorm, layer.norm) for layer in self._layers]
        self._sizes = [norm.num_features for norm in self._norms]
        eps = [torch.full_like(_statistic(norm, "running_var"), norm.eps) for norm in self._norms]
        self._eps_F = torch.cat(eps) if eps else None

    def sync(self) -> None:
        """Give every layer the scale and shift, (F,) each, that its normalisation has now."""
        if self._eps_F is None:
            return
        mean_F, var_F, weight_F, bias_F = (
            torch.cat([_statistic(norm, name) for norm in self._norms])
            for name in ("running_mean", "running_var", "weight", "bias")
        )
        scale_F = torch.rsqrt(var_F.add_(self._eps_F)).mul_(weight_F)
        shift_F = bias_F.addcmul_(mean_F, scale_F, value=-1)
        pieces = zip(scale_F.split(self._sizes), shift_F.split(self._sizes), strict=True)
        for layer, affine in zip(self._layers, pieces, strict=True):
            layer.affine = affine


def _statistic(norm: BatchNorm, name: str) -> Tensor:
    """Return a normalisation's weight, bias or statistic; those that it lacks change nothing."""
    tensor: Tensor | None = getattr(norm, name)
    if tensor is not None:
        return tensor.detach()
    return torch.full_like(cast(Tensor, norm.running_var), 1.0 if name == "weight" else 0.0)


FUSED_LAYERS: dict[type, Callable[..., FusedLayer]] = {
    nn.Conv2d: FusedConvolution,
    nn.Linear: _Linear,
    nn.BatchNorm1d: _Norm,
    nn.BatchNorm2d: _Norm,
}


def convolution(device: torch.device, dtype: torch.dtype) -> Convolve:
    """Return what convolves, adds and rectifies, at best in one step.

    oneDNN's fused convolution is what torch's own compiler calls on a CPU; it has no public
    name, so that without it, and on other devices, the three steps are done one by one.

    The function takes input (N, C, H, W), weight, bias, what to add (or None), whether to rectify,
    stride, padding, dilation and groups; with ``into_other`` the result may take the place of what
    is added.
    """
    in_one_step = device.type == "cpu" and _has_kernels(dtype) and _does_as_expected()
    return _fused_conv_add_relu if in_one_step else _in_steps


def _has_kernels(dtype: torch.dtype) -> bool:
    """Whether oneDNN convolves in a precision on this processor."""
    if not torch.backends.mkldnn.is_available() or dtype not in (torch.float32, torch.bfloat16):
        return False
    asked = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    return dtype == torch.float32 or bool(asked())


@functools.cache
def _does_as_expected() -> bool:
    """Try all three private operators of torch with one number, once in a process."""
    one = torch.ones(1, 1, 1, 1).to(memory_format=torch.channels_last)
    numbers, geometry = (2 * one, 3 * one, one.flatten()), ((1, 1), (0, 0), (1, 1), 1)
    outputs = []
    try:
        for other, into_other in ((None, False), (one, False), (-8 * one, True)):
            output = _fused_conv_add_relu(*numbers, other, True, *geometry, into_other=into_other)
            outputs.append(float(output))
    except (AttributeError, RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
    else:
        if outputs == [7, 8, 0]:
            return True
        reason = f"it returns {outputs} in the place of [7, 8, 0]"
    log.log(
        NOTICE,
        "convolving in several steps, which is slower: oneDNN's fused convolution does not do what "
        "it does in torch %s; this is torch %s: %s",
        " and ".join(TRIED_WITH),
        torch.__version__,
        reason,
    )
    return False


def _in_steps(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    other: Tensor | None,
    relu: bool,
    *geometry: Any,
    into_other: bool = False,  # it saves nothing here
) -> Tensor:
    output = F.conv2d(x, weight, bias, *geometry)
    if other is not None:
        output.add_(other)
    return output.relu_() if relu else output


def _fused_conv_add_relu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    other: Tensor | None,
    relu: bool,
    *geometry: Any,
    into_other: bool = False,
) -> Tensor:
    """Return ``relu(conv(x) + other)`` by one call of oneDNN."""
    stride, padding, dilation, groups = geometry
    if other is not None and not other.is_contiguous(memory_format=torch.channels_last):
        return _in_steps(x, weight, bias, other, relu, *geometry)  # it would not be one step
    library: Any = torch.ops.mkldnn
    where, last = (padding, stride, dilation, groups), "relu" if relu else None
    if other is None:
        output = library._convolution_pointwise(x, weight, bias, *where, last or "none", [], "")
    else:
        fuse = library._convolution_pointwise_ if into_other else library._convolution_pointwise
        operands = (other, x) if into_other else (x, other)
        output = fuse.binary(*operands, weight, bias, *where, "add", 1.0, last, [], None)
    return cast(Tensor, output)
