"""How a network is called with a batch of inputs."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def call(network: nn.Module, inputs: Any) -> Any:
    """Return what a network makes of inputs: one, several by position, or several by name.

    Example:
        >>> import torch
        >>> both = nn.Bilinear(2, 2, 1)
        >>> pair = torch.ones(3, 2), torch.ones(3, 2)
        >>> by_name = {"input1": pair[0], "input2": pair[1]}
        >>> call(both, pair).equal(call(both, by_name))
        True
    """
    if isinstance(inputs, Tensor):
        return network(inputs)
    return network(**inputs) if isinstance(inputs, dict) else network(*inputs)
