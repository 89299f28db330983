"""The order in memory of images and filters, by arithmetic on the device and the precision."""

from __future__ import annotations

from torch import nn

from lsengine.objective.device_state import EvaluationSettings


def is_channels_last(model: nn.Module, settings: EvaluationSettings) -> bool:
    """Whether a network's images and filters are laid out channels-last.

    Not for a user's own network, whose ``view`` calls may count on the other order.  CUDA has fast
    channels-last convolutions in 16 bits and in tf32.  In float32 and float64 it has none: there
    ResNet-110 took 2.7 times as long as in row-major order (``docs/SPEED.md``).
    """
    if not settings.fuses:
        return False
    return settings.device.type != "cuda" or settings.precision not in ("float32", "float64")
