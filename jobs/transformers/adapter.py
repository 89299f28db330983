"""The character model with adapters (Hu et al. 2021, LoRA), and Python's sources as their text."""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lsengine.models.gpt import GPT

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("argparse", "difflib")


class Adapted(nn.Module):
    """A frozen linear layer to whose weight ``B A`` is added; B starts at zero."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.lora_A = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's outputs, with those of the adapter."""
        out: Tensor = self.base(x)
        return out + F.linear(F.linear(x, self.lora_A), self.lora_B)


def adapted(base: str, rank: int) -> nn.Module:
    """Return the network of a checkpoint, named from the repository's root, with adapters.

    Queries and values of every block have one; all else is frozen.
    """
    state = torch.load(ROOT / base, map_location="cpu")["state_dict"]
    vocabulary, width = state["embedding.weight"].shape
    network = GPT(vocabulary=vocabulary, context=64, depth=4, width=width, heads=4)
    network.load_state_dict(state)
    network.requires_grad_(False)
    for block in network.blocks:
        block.attention.query = Adapted(block.attention.query, rank)
        block.attention.value = Adapted(block.attention.value, rank)
    return network


def sources(context: int = 64) -> dict[str, Any]:
    """Return modules of Python as text, in the alphabet of data/python.txt; others are left out.

    Of each module the last tenth is for the test.
    """
    prose = (ROOT / "data" / "python.txt").read_text("utf-8")
    numbers = {character: n for n, character in enumerate(sorted(set(prose)))}
    parts: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    for name in SOURCES:
        source = inspect.getsource(import_module(name))
        tokens = np.array([numbers[c] for c in source if c in numbers])
        border = len(tokens) * 9 // 10
        for split, part in (("train", tokens[:border]), ("test", tokens[border:])):
            rows = (len(part) - 1) // context
            cut = np.arange(rows)[:, None] * context + np.arange(context + 1)
            parts[split].append(part[cut])
    arrays: dict[str, Any] = {"classes": len(numbers)}
    for split, samples in parts.items():
        whole = np.concatenate(samples)
        arrays |= {f"x_{split}": whole[:, :-1], f"y_{split}": whole[:, 1:]}
    return arrays
