"""DenseNet-121 for small images (Huang et al. 2017): a 3x3 stem and no max-pooling.

Shapes: N samples, C channels, H rows, W columns, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_BLOCKS = (6, 12, 24, 16)


class Layer(nn.Module):
    """Appends ``growth`` channels, computed from all channels before them."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the input behind ``growth`` new channels, (N, growth + C, H, W)."""
        out = self.conv1(torch.relu(self.bn1(x_NCHW)))
        out = self.conv2(torch.relu(self.bn2(out)))
        return torch.cat([out, x_NCHW], 1)


class Transition(nn.Module):
    """Halves the channels and both sides of the image."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return half the channels at half the size, (N, C', H / 2, W / 2)."""
        return nn.functional.avg_pool2d(self.conv(torch.relu(self.bn(x_NCHW))), 2)


class DenseNet(nn.Module):
    """Four dense blocks with transitions between them, batch norm, a linear layer.

    Each layer adds ``growth`` channels.
    """

    def __init__(self, *, channels: int, classes: int, growth: int = 32) -> None:
        super().__init__()
        planes = 2 * growth
        self.conv1 = nn.Conv2d(channels, planes, 3, padding=1, bias=False)
        for stage, count in enumerate(_BLOCKS, start=1):
            dense = nn.Sequential(*(Layer(planes + i * growth, growth) for i in range(count)))
            self.add_module(f"dense{stage}", dense)
            planes += count * growth
            if stage < len(_BLOCKS):
                self.add_module(f"trans{stage}", Transition(planes, planes // 2))
                planes //= 2
        self.bn = nn.BatchNorm2d(planes)
        self.linear = nn.Linear(planes, classes)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the logits, (N, K)."""
        out = self.conv1(x_NCHW)
        for stage in range(1, len(_BLOCKS) + 1):
            out = getattr(self, f"dense{stage}")(out)
            if stage < len(_BLOCKS):
                out = getattr(self, f"trans{stage}")(out)
        # the mean over all that is left of the image, so that any input size will do
        logits_NK: Tensor = self.linear(torch.relu(self.bn(out)).mean((2, 3)))
        return logits_NK
