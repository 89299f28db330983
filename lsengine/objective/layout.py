"""The order in memory of images and filters, by arithmetic on the device and the precision."""

from __future__ import annotations

from torch import nn

from lsengine import convolution
from lsengine.objective.device_state import EvaluationSettings
from lsengine.objective.fused_layers import FUSED_LAYERS, CannotFuse, geometry_of


def is_channels_last(model: nn.Module, settings: EvaluationSettings) -> bool:
    """Whether a network's images and filters are laid out channels-last.

    Not for a user's own network, whose ``view`` calls may count on the other order.  CUDA has fast
    channels-last convolutions in 16 bits and in tf32.  In float32 cuDNN has none: there ResNet-110
    took 2.7 times as long as in row-major order (``docs/SPEED.md``).  Triton's kernel is fast, so
    networks that it does all convolutions of are channels-last.
    """
    if not settings.fuses:
        return False
    if settings.device.type != "cuda" or settings.precision not in ("float32", "float64"):
        return True
    return settings.precision == "float32" and _is_for_triton(model, settings)


def _is_for_triton(model: nn.Module, settings: EvaluationSettings) -> bool:
    """Whether all layers with parameters will be fused, and all convolutions done by Triton."""
    owners = [m for m in model.modules() if next(m.parameters(recurse=False), None) is not None]
    if any(type(module) not in FUSED_LAYERS for module in owners):
        return False
    try:
        geometries = [geometry_of(m, relu=True) for m in owners if isinstance(m, nn.Conv2d)]
    except CannotFuse:
        return False
    return not convolution.is_row_major(geometries, settings.device, settings.precision)
