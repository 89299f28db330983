"""Layers with their batch normalisation folded in, of which fused forward passes are made.

A convolution does the sum and the ReLU after it as well, by whatever kernel it is given.

Shapes: N samples, C channels, F filters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lsengine.convolution import Convolve, Geometry
from lsengine.models.layers import BatchNorm


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
        geometry: What the choice of its kernel depends on.
        convolve: The kernel; see `lsengine.convolution.Convolution`.
        into_other: Whether the sum may overwrite the summand.
    """

    convolve: Convolve

    def __init__(
        self, layer: nn.Conv2d, norm: BatchNorm | None, *, relu: bool, **rest: Any
    ) -> None:
        super().__init__(layer, norm, relu=relu, **rest)
        self.geometry = geometry_of(layer, relu=relu)
        self._geometry = (layer.stride, layer.padding, layer.dilation, layer.groups)
        self.into_other = False

    def forward(self, x_NCHW: Tensor, other_NFHW: Tensor | None = None) -> Tensor:
        """Return the output, (N, F, H', W'), plus the summand, rectified."""
        numbers = (self.weight, self.bias, other_NFHW, self._relu)
        output = self.convolve(x_NCHW, *numbers, *self._geometry, into_other=self.into_other)
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


def geometry_of(layer: nn.Conv2d, *, relu: bool) -> Geometry:
    """Return what the choice of a convolution's kernel depends on.

    Raises:
        CannotFuse: If the padding is not one of zeros, as many on both sides.
    """
    if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        raise CannotFuse(f"a convolution with padding {layer.padding!r}")
    return Geometry(
        channels=layer.in_channels,
        filters=layer.out_channels,
        size=layer.kernel_size,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        groups=layer.groups,
        relu=relu,
    )


FUSED_LAYERS: dict[type, Callable[..., FusedLayer]] = {
    nn.Conv2d: FusedConvolution,
    nn.Linear: _Linear,
    nn.BatchNorm1d: _Norm,
    nn.BatchNorm2d: _Norm,
}
