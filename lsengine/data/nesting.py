"""Batches of any nesting: a tensor, or dicts and tuples of them, with a common first axis.

Shape suffix: N samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from lsengine.errors import UsageError

Nested: TypeAlias = "Tensor | dict[str, Nested] | tuple[Nested, ...]"


def leaves(nested: Nested, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors with their places, such as ``mask`` or ``images.0``; of one alone, empty.

    Example:
        >>> numbers = Tensor([0.0, 1.0])
        >>> [name for name, _ in leaves({"ids": numbers, "pair": (numbers, numbers)})]
        ['ids', 'pair.0', 'pair.1']
    """
    if isinstance(nested, Tensor):
        yield path, nested
        return
    items = nested.items() if isinstance(nested, dict) else enumerate(nested)
    for key, value in items:
        yield from leaves(value, f"{path}.{key}" if path else str(key))


def mapped(function: Callable[[Tensor], Tensor], nested: Nested) -> Nested:
    """Return the same nesting of what a function makes of each tensor."""
    if isinstance(nested, Tensor):
        return function(nested)
    if isinstance(nested, dict):
        return {key: mapped(function, value) for key, value in nested.items()}
    return tuple(mapped(function, value) for value in nested)


def count(nested: Nested) -> int:
    """Return the number of samples, which all tensors have in common."""
    return len(next(tensor for _, tensor in leaves(nested)))


def split(nested: Nested, sizes: int | Sequence[int]) -> list[Nested]:
    """Cut along the first axis into parts of a size, the last one perhaps smaller, or of sizes."""
    if isinstance(nested, Tensor):
        return list(nested.split(sizes if isinstance(sizes, int) else list(sizes)))
    if isinstance(nested, dict):
        columns = [split(value, sizes) for value in nested.values()]
        return [dict(zip(nested, row, strict=True)) for row in zip(*columns, strict=True)]
    return list(zip(*(split(value, sizes) for value in nested), strict=True))


def joined(parts: Sequence[Nested]) -> Nested:
    """Join nestings that are alike along the first axis."""
    columns = zip(*([tensor for _, tensor in leaves(part)] for part in parts), strict=True)
    whole = iter([torch.cat(column) for column in columns])
    return mapped(lambda _: next(whole), parts[0])


def lone(nested: Nested | None) -> Tensor:
    """Return the tensor that is not nested at all.

    Raises:
        UsageError: If there are several, or none.
    """
    if isinstance(nested, Tensor):
        return nested
    places = [] if nested is None else [place for place, _ in leaves(nested)]
    hint = f"; of a file data.args: {{inputs: {places[0]}}} takes one" if places else ""
    found = ", ".join(places) or "none"
    raise UsageError(f"data: one tensor is needed here; the data have: {found}{hint}")
