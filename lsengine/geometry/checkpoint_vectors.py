"""Checkpoints read one by one as vectors, and the pieces in which a long vector is taken.

Shape suffix: P numbers of a checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from lsengine.geometry.parameters import Parameters
from lsengine.wording import listed

_CHUNK = 2**13  # numbers taken to float64 at once: a block of them stays in the cache


class CheckpointVectors:
    """Reads checkpoints as vectors (P,) of the same parameters in the same order.

    Nothing is kept: every call reads the checkpoint again.

    Args:
        load: Index to parameters, 0 the first and ``count - 1`` the final checkpoint; more
            than ``names`` may be there.
        count: Number of checkpoints, at least one.
        names: The parameters that count.
        label: Index to what messages call a checkpoint.

    Raises:
        ValueError: If there is no checkpoint or no name.  Later, if a checkpoint lacks a
            parameter, has one of another shape or one that is not finite; it is named.
    """

    def __init__(
        self,
        load: Callable[[int], Parameters],
        count: int,
        names: Sequence[str],
        label: Callable[[int], str] = "checkpoint {}".format,
    ) -> None:
        if count < 1:
            raise ValueError(f"the number of checkpoints is at least 1; got {count}")
        if not names:
            raise ValueError("no parameter is left to compare checkpoints by")
        self.count, self.label = count, label
        self._load, self._names = load, tuple(names)
        self._shapes: dict[str, torch.Size] = {}

    def __call__(self, index: int) -> Tensor:
        """Read one checkpoint."""
        return self.flat(self._load(index), self.label(index))

    def flat(self, parameters: Parameters, what: str) -> Tensor:
        """Copy the parameters into one vector, in their own dtype, on the CPU."""
        if missing := [n for n in self._names if n not in parameters]:
            raise ValueError(f"{what} lacks {listed(missing)}")
        if not self._shapes:
            self._shapes = {n: parameters[n].shape for n in self._names}
        for name, shape in self._shapes.items():
            if parameters[name].shape != shape:
                shapes = f"{[*parameters[name].shape]}, elsewhere {[*shape]}"
                raise ValueError(f"{what}: {name} has shape {shapes}")
        flat_P = torch.cat([parameters[n].detach().cpu().reshape(-1) for n in self._names])
        if not flat_P.is_floating_point():
            flat_P = flat_P.double()
        if not bool(flat_P.sum().isfinite()):  # quick to tell; may also be an overflow
            for name in self._names:
                if not bool(parameters[name].isfinite().all()):
                    raise ValueError(f"{what}: {name} holds numbers that are not finite")
        return flat_P

    def sparse(self, direction: Parameters, what: str) -> Tensor:
        """Return a direction as a vector, zero where it does not move."""
        if odd := sorted(direction.keys() - set(self._names)):
            raise ValueError(f"{what} moves {odd[0]}, which is not among the parameters compared")
        some = next(iter(direction.values()), torch.zeros(0))
        still = {n: some.new_zeros(s) for n, s in self._shapes.items() if n not in direction}
        return self.flat({**direction, **still}, what)

    def named(self, vector_P: Tensor) -> dict[str, Tensor]:
        """Cut a vector into float32 parameters."""
        pieces = vector_P.float().split([s.numel() for s in self._shapes.values()])
        items = zip(self._shapes.items(), pieces, strict=True)
        return {name: piece.reshape(shape) for (name, shape), piece in items}


def chunks(size: int) -> Iterator[slice]:
    """Yield the slices of a vector that are taken to float64 one after the other."""
    for start in range(0, size, _CHUNK):
        yield slice(start, start + _CHUNK)
