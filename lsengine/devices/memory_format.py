"""In which order of memory a network may be differentiated on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def is_channels_last_safe(model: nn.Module, device: torch.device) -> bool:
    """Whether a backward pass to the weights of a network survives channels-last.

    For a 1x1 convolution with a stride, oneDNN copies what the stride leaves of its input in
    blocks of 8 channels (AVX2) or 16 (AVX-512), into room for the channels that there are:
    where those are fewer than a block it writes past the end, and the interpreter dies or the
    gradient is wrong (https://github.com/uxlfoundation/oneDNN/issues/6035, in torch 2.13).
    The shortcuts of narrow residual networks are such convolutions.  Forward passes are fine.
    """
    if device.type != "cpu":
        return True
    block = 16 if torch.cpu.get_capabilities().get("avx512_f") else 8
    return not any(
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and max(module.stride) > 1
        and module.in_channels // module.groups < block
        for module in model.modules()
    )


def contiguous(tensor: Tensor) -> Tensor:
    """Return a copy whose strides are those of row-major order.

    ``Tensor.contiguous`` leaves those of a 1x1 filter, which is contiguous in either order, and
    torch goes by them.
    """
    return tensor.detach().clone(memory_format=torch.contiguous_format)
