"""A random part of a data set, stratified by class."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from lsengine.data.dataset import Split


def draw_subset(split: Split, samples: int, seed: int, name: str) -> Split:
    """Return a random part of a split, with the classes in the same shares."""
    if samples >= len(split.y):
        return split
    digest = hashlib.sha256(f"subset {seed} {name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    chosen = stratified(split.y, samples, generator)
    return Split(split.x[chosen].contiguous(), split.y[chosen].contiguous())


def stratified(y: Tensor, samples: int, generator: torch.Generator) -> Tensor:
    """Return sorted indices of a draw that has the classes in the proportions of all.

    Shares are rounded down and what is left goes to the largest remainders.  Values to
    predict have no classes: the draw is then uniform.
    """
    if y.is_floating_point():
        return torch.randperm(len(y), generator=generator)[:samples].sort().values
    labels, counts = y.unique(return_counts=True)
    shares = (counts * samples) // len(y)
    remainders = (counts * samples) % len(y)
    left = samples - int(shares.sum())
    shares[remainders.argsort(descending=True, stable=True)[:left]] += 1
    chosen = []
    for label, share in zip(labels, shares.tolist(), strict=True):
        members = (y == label).nonzero().flatten()
        order = torch.randperm(len(members), generator=generator)
        chosen.append(members[order[:share]])
    return torch.cat(chosen).sort().values
