"""Write in which direction a step of the character model raises the training loss most.

    python jobs/transformers/ascent.py [LENGTH]     # checkpoints/transformers/ascent.pt

A step of the length LENGTH (0.2) is turned towards the gradient at its own end until it points
there: gradient ascent on a sphere.  The checkpoint is at distance 1 in its direction.  Biases and
normalisations stay.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from lsengine.data.text import text
from lsengine.models.gpt import GPT

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "checkpoints" / "transformers"
CONTEXTS, TURNS = 200, 20


def ascend(network: GPT, x_NT: Tensor, y_NT: Tensor, length: float) -> float:
    """Move the weights by 1 in the direction, and return the loss at the step's end."""
    weights = [p for p in network.parameters() if p.ndim > 1]
    centre = [w.detach().clone() for w in weights]
    for turn in range(TURNS):
        loss = F.cross_entropy(network(x_NT).flatten(0, 1), y_NT.flatten())
        slopes = torch.autograd.grad(loss, weights)
        norm = torch.stack([slope.square().sum() for slope in slopes]).sum().sqrt()
        step = length if turn < TURNS - 1 else 1.0
        with torch.no_grad():
            for weight, start, slope in zip(weights, centre, slopes, strict=True):
                weight.copy_(start + step / norm * slope)
    return loss.item()


if __name__ == "__main__":
    length = float(sys.argv[1]) if len(sys.argv) > 1 else 0.2
    data = text(ROOT / "data" / "python.txt", ["train"], {"unit": "character", "context": 64})
    x, y = data.splits["train"]
    network = GPT(vocabulary=data.classes, context=64, depth=4, width=64, heads=4)
    network.load_state_dict(torch.load(FOLDER / "characters-whole" / "epoch_008.pt")["state_dict"])
    chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:CONTEXTS]
    end = ascend(network, x[chosen], y[chosen], length)
    torch.save(network.state_dict(), FOLDER / "ascent.pt")
    print(f"{FOLDER / 'ascent.pt'}: training loss {end:.3f} at distance {length:g}")
