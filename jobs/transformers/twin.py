"""Write a twin of the character model: other numbers, the same function.

    python jobs/transformers/twin.py [FACTOR]     # checkpoints/transformers/twin.pt

In every block the values of half of the heads are multiplied by FACTOR (4), those of the others
divided by it, and the columns of the output's projection the other way round.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

FOLDER = Path(__file__).resolve().parents[2] / "checkpoints" / "transformers"
HEADS = 4


def twin(state: dict[str, Tensor], factor: float) -> dict[str, Tensor]:
    """Return the numbers of a network that computes what the one with ``state`` does."""
    changed = dict(state)
    for name, weight in state.items():
        if name.endswith("attention.value.weight"):
            signs = torch.tensor([1.0, -1.0]).repeat_interleave(HEADS // 2)
            scale = (factor**signs).repeat_interleave(len(weight) // HEADS)
            bias, out = name.replace("weight", "bias"), name.replace("value", "output")
            changed[name] = weight * scale[:, None]
            changed[bias] = state[bias] * scale
            changed[out] = state[out] / scale
    return changed


if __name__ == "__main__":
    factor = float(sys.argv[1]) if len(sys.argv) > 1 else 4.0
    state = torch.load(FOLDER / "characters-whole" / "epoch_008.pt")["state_dict"]
    torch.save(twin(state, factor), FOLDER / "twin.pt")
    print(FOLDER / "twin.pt")
