"""Batches that a Hessian is of, as a few samples and in parts.

Shape suffix: N samples.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from lsengine.curvature import states
from lsengine.data.nesting import Nested, count, joined, leaves, mapped, split

Batch: TypeAlias = "tuple[Nested, Nested | None]"
"""Inputs and targets; an objective's batch has all of it as inputs."""


def first(batch: Batch, samples: int) -> Batch:
    """Return the first samples of a batch."""
    return part(batch, slice(samples))


def part(batch: Batch, which: slice) -> Batch:
    """Return some samples of a batch."""
    inputs, targets = batch
    return _at(inputs, which), None if targets is None else _at(targets, which)


def parts(batch: Batch, sizes: list[int]) -> list[Batch]:
    """Cut a batch into parts of these sizes."""
    inputs, targets = batch
    absent: list[None] = [None] * len(sizes)
    return [
        *zip(
            split(inputs, sizes),
            absent if targets is None else split(targets, sizes),
            strict=True,
        )
    ]


def wide(nested: Nested) -> Nested:
    """Return all numbers in float64 or complex128, integers as they are."""
    return mapped(states.wide, nested)


def drawn(batches: Sequence[Batch], samples: int) -> Batch:
    """Return samples drawn from all batches, with the inputs where those of batches are."""
    ends = np.cumsum([count(inputs) for inputs, _ in batches])
    generator = np.random.Generator(np.random.PCG64(0))
    chosen = np.sort(generator.permutation(int(ends[-1]))[:samples])
    starts = [0, *ends.tolist()]
    rows = [(int(np.searchsorted(ends, n, side="right")), int(n)) for n in chosen]
    picked: list[Batch] = []
    for number, of_batch in itertools.groupby(rows, key=lambda row: row[0]):
        batch = batches[number]  # which may be made for this
        at = [n - starts[number] for _, n in of_batch]
        inputs, targets = batch
        picked.append((_at(inputs, at), None if targets is None else _at(targets, at)))
    inputs = joined([inputs for inputs, _ in picked])
    if any(targets is None for _, targets in picked):
        return inputs, None
    return inputs, joined([targets for _, targets in picked if targets is not None])


def positions(inputs: Nested) -> int:
    """Return how many places the largest tensor of a sample has behind its first axis."""
    shapes = [tensor.shape[2:] for _, tensor in leaves(inputs)]
    return max(int(np.prod(shape)) for shape in shapes)


def _at(nested: Nested, which: slice | list[int]) -> Nested:
    return mapped(lambda tensor_N: tensor_N[which], nested)
