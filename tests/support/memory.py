"""Networks and samples in memory, and their losses by a naive loop in float64."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


def network(seed: int = 1) -> nn.Sequential:
    """Return a network of six features and three classes, with running statistics."""
    generator = torch.Generator().manual_seed(seed)
    layers = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        for tensor in layers.state_dict().values():
            if tensor.is_floating_point():
                drawn = torch.rand(tensor.shape, generator=generator, dtype=torch.float32)
                tensor.copy_(drawn + 0.1)
    return layers.float()


def samples(count: int = 37, seed: int = 2) -> tuple[Tensor, Tensor]:
    """Return inputs (N, 6) and labels (N,)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 6, generator=generator, dtype=torch.float32)
    return x, torch.randint(0, 3, (count,), generator=generator)


def named() -> dict[str, Tensor]:
    """Return the samples as one batch by name."""
    x, y = samples()
    return {"features": x, "labels": y}


def judged(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the losses of samples by name, and whether answers are right as a metric."""
    output = model(batch["features"])
    losses = F.cross_entropy(output, batch["labels"], reduction="none")
    return {"loss": losses, "right": output.argmax(1) == batch["labels"]}


def naive_loss(
    model: nn.Module,
    state: Mapping[str, Tensor],
    data: tuple[Tensor, Tensor],
    loss: Callable[..., Any] = F.cross_entropy,
) -> float:
    """Return the mean loss with other parameters, sample by sample in float64."""
    wide = copy.deepcopy(model).double().eval()
    with torch.no_grad():
        wide.load_state_dict(state)
        values = [loss(wide(x[None].double()), y[None]) for x, y in zip(*data, strict=True)]
    return float(np.mean([float(v) for v in values]))


def between(
    model: nn.Module,
    alpha: float,
    one: nn.Module,
    beta: float = 0.0,
    other: nn.Module | None = None,
) -> dict[str, Tensor]:
    """Return parameters that have moved toward others; running statistics stay."""
    state = {name: tensor.double() for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        centre = parameter.detach().double()
        state[name] = centre + alpha * (one.state_dict()[name].double() - centre)
        if other is not None:
            state[name] += beta * (other.state_dict()[name].double() - centre)
    return state


class Slow(nn.Module):
    """The network, after a while."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.net, self.seconds = network(), seconds

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs, (N, 3)."""
        time.sleep(self.seconds)
        return self.net(x)
