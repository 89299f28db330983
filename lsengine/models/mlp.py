"""A plain fully connected network for inputs of any shape."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


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
