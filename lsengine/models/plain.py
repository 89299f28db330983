"""Networks without shortcuts: multilayer perceptrons, and VGG for small images.

Shapes: N samples, C channels, H rows, W columns, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

_POOL = 0
_TWO_STAGES = (64, 64, _POOL, 128, 128, _POOL)
_STAGES = {
    9: (*_TWO_STAGES, 256, 256, 256, _POOL),
    16: (*_TWO_STAGES, 256, 256, 256, _POOL, *(2 * (512, 512, 512, _POOL))),
    19: (*_TWO_STAGES, 256, 256, 256, 256, _POOL, *(2 * (512, 512, 512, 512, _POOL))),
}


class VGG(nn.Module):
    """Biased 3x3 convolutions with batch norm, a hidden linear layer, a classifier.

    After Simonyan and Zisserman (2015), who had no batch norm.
    A pooling layer whose input is a single row or column is left out (its place in
    ``features`` is kept, so the names of parameters do not depend on the input's size).
    ``depth`` is 9, 16 or 19, ``size`` the height and width of the input.
    """

    def __init__(self, depth: int, *, channels: int, classes: int, size: tuple[int, int]) -> None:
        super().__init__()
        height, width = size
        self.features = nn.Sequential()
        for planes in _STAGES[depth]:
            if planes != _POOL:
                self.features.append(nn.Conv2d(channels, planes, 3, padding=1))
                self.features.append(nn.BatchNorm2d(planes))
                self.features.append(nn.ReLU(inplace=True))
                channels = planes
            elif min(height, width) < 2:
                self.features.append(nn.Identity())
            else:
                self.features.append(nn.MaxPool2d(2))
                height, width = height // 2, width // 2
        self.fc = nn.Sequential(
            nn.Linear(channels * height * width, channels),
            nn.BatchNorm1d(channels),
            nn.ReLU(inplace=True),
        )
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the logits, (N, K)."""
        logits_NK: Tensor = self.classifier(self.fc(self.features(x_NCHW).flatten(1)))
        return logits_NK


class MLP(nn.Module):
    """Hidden layers with ReLU, then a linear layer; neither normalisation nor dropout.

    A sample of so many ``features`` is flattened.  ``hidden`` has the width of each hidden layer;
    without any the network is linear.
    """

    def __init__(self, *, features: int, classes: int, hidden: Sequence[int]) -> None:
        super().__init__()
        widths = [features, *hidden]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.linear = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (N, K)."""
        out = x.flatten(1)
        for layer in self.layers:
            out = torch.relu(layer(out))
        logits_NK: Tensor = self.linear(out)
        return logits_NK
