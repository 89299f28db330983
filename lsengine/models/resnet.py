"""Residual networks for small images, with and without shortcuts.

The CIFAR family of He et al. (2016) has three stages of basic blocks; the wide ones
(Zagoruyko and Komodakis 2016) are the same code with a wider stem.  ResNet-18, 34 and 50
have four stages behind a 3x3 stem without pooling.  Parameters are named as in the
checkpoints published with Li et al. (2018).

Shapes: N samples, C channels, H rows, W columns, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """Two 3x3 convolutions, added to their own input if ``shortcut``."""

    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int, shortcut: bool) -> None:
        super().__init__()
        self.conv1 = _conv3x3(inputs, planes, stride)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = _conv3x3(planes, planes, 1)
        self.bn2 = nn.BatchNorm2d(planes)
        self.shortcut = _shortcut(inputs, planes, stride) if shortcut else None

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the block's output, (N, C', H', W')."""
        out = torch.relu(self.bn1(self.conv1(x_NCHW)))
        out = self.bn2(self.conv2(out))
        return torch.relu(out if self.shortcut is None else out + self.shortcut(x_NCHW))


class Bottleneck(nn.Module):
    """A 3x3 convolution between two 1x1 ones that narrow and widen the channels.

    Without shortcut its output is not rectified, as in Li et al.'s own code, whose checkpoints
    would compute something else otherwise.
    """

    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int, shortcut: bool) -> None:
        super().__init__()
        outputs = self.expansion * planes
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = _conv3x3(planes, planes, stride)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut = _shortcut(inputs, outputs, stride) if shortcut else None

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the block's output, (N, C', H', W')."""
        out = torch.relu(self.bn1(self.conv1(x_NCHW)))
        out = torch.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return out if self.shortcut is None else torch.relu(out + self.shortcut(x_NCHW))


class ResNet(nn.Module):
    """A 3x3 stem, stages that halve the image and double the width, a linear layer.

    ``blocks`` has the number of blocks of each stage; stem and first stage have ``width`` channels.
    """

    def __init__(
        self,
        block: type[Block] | type[Bottleneck],
        blocks: Sequence[int],
        *,
        channels: int,
        classes: int,
        width: int,
        shortcut: bool = True,
    ) -> None:
        super().__init__()
        self.conv1 = _conv3x3(channels, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        inputs, self._stages = width, len(blocks)
        for stage, count in enumerate(blocks):
            layer = nn.Sequential()
            for position in range(count):
                stride = 2 if stage > 0 and position == 0 else 1
                layer.append(block(inputs, width << stage, stride, shortcut))
                inputs = (width << stage) * block.expansion
            self.add_module(f"layer{stage + 1}", layer)
        self.linear = nn.Linear(inputs, classes)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the logits, (N, K)."""
        out = torch.relu(self.bn1(self.conv1(x_NCHW)))
        for stage in range(self._stages):
            out = getattr(self, f"layer{stage + 1}")(out)
        # the mean over all that is left of the image, so that any input size will do
        logits_NK: Tensor = self.linear(out.mean((2, 3)))
        return logits_NK


def cifar(depth: int, **options: Any) -> ResNet:
    """Return the CIFAR ResNet of ``depth`` = 6n + 2 layers: three stages of n blocks."""
    return ResNet(Block, 3 * [(depth - 2) // 6], **options)


def four_stages(depth: int, **options: Any) -> ResNet:
    """Return ResNet-18, 34 or 50 with a stem for small images."""
    blocks = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}[depth]
    return ResNet(Bottleneck if depth == 50 else Block, blocks, **options)


def _conv3x3(inputs: int, outputs: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Return the identity, or a 1x1 convolution where the shape changes."""
    if stride == 1 and inputs == outputs:
        return nn.Sequential()
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
    )
