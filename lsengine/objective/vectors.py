"""The vectors that cells are made of: centre and directions, on the device or in the host's memory.

Shape suffix: M numbers that move.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lsengine.surface.grid import Cell

Steps = Callable[[Cell], Sequence[float]]
BLOCK = 2**22  # numbers that go to the device at once: 16 MiB, and PCIe is at its full rate


@dataclass(frozen=True, slots=True)
class Blocked:
    """A vector (M,) in blocks.

    Attributes:
        blocks: In order; on the host of `BLOCK` numbers each, the last one of fewer.
        on_host: Whether they are in the host's memory, to be copied to the device.
    """

    blocks: Sequence[Tensor]
    on_host: bool

    def parts(self) -> list[Tensor]:
        """Return it in blocks of `BLOCK` numbers, wherever it is."""
        return [part for block in self.blocks for part in block.split(BLOCK)]

    def times(self, factor_M: Tensor) -> Blocked:
        """Return a vector with every number multiplied by a factor of its own."""
        factors = factor_M.split([len(block) for block in self.blocks])
        pairs = [(b, b * f.to(b.device)) for b, f in zip(self.blocks, factors, strict=True)]
        return Blocked(
            [new.pin_memory() if b.is_pinned() else new for b, new in pairs], self.on_host
        )


def in_blocks(pieces: Iterable[Tensor], rooms: Sequence[Tensor]) -> None:
    """Write flat pieces one after the other into rooms that hold just as many numbers in all."""
    free = iter(rooms)
    room = next(free, None)
    for piece in pieces:
        rest = piece
        while len(rest):
            assert room is not None
            part = room[: len(rest)].copy_(rest[: len(room)])
            rest, room = rest[len(part) :], room[len(part) :]
            if not len(room):
                room = next(free, None)


def host_rooms(count: int, dtype: torch.dtype, *, pinned: bool) -> list[Tensor]:
    """Return room for ``count`` numbers in the host's memory, in blocks.

    Pinned memory is given in powers of two bytes, so one room for all might be twice as large.
    """
    sizes = [min(BLOCK, count - start) for start in range(0, count, BLOCK)]
    return [torch.empty(n, dtype=dtype, pin_memory=pinned) for n in sizes]


class Vectors:
    """Centre (M,) and directions (M,), by repeat and axis, and a cell's steps along each."""

    def __init__(
        self, centre_M: Tensor, directions: Sequence[Sequence[Tensor]], steps: Steps
    ) -> None:
        self._centre_M, self._directions, self._steps = centre_M, directions, steps
        self._moved_M: Tensor | None = None  # where what is displaced is to be rounded

    def empty(self, dtype: torch.dtype | None = None) -> Tensor:
        """Return room for a vector on the device."""
        return torch.empty_like(self._centre_M, dtype=dtype)

    def displace(self, cell: Cell, out_M: Tensor) -> None:
        """Set a vector to ``centre + alpha * d1 + beta * d2``, or by other steps.

        If it is of another precision, the sum is rounded at the end.
        """
        moved_M, start_M, steps = out_M, self._centre_M, self._steps(cell)
        if out_M.dtype != start_M.dtype:
            moved_M = self._moved_M = self.empty() if self._moved_M is None else self._moved_M
        for step, direction_M in zip(steps, self._directions[cell.repeat], strict=False):
            if step:  # an infinite weight times a zero step would be NaN
                start_M = torch.add(start_M, direction_M, alpha=step, out=moved_M)
        if start_M is not out_M:
            out_M.copy_(start_M)

    def times(self, factor_M: Tensor) -> Vectors:
        """Return the same cells with every number multiplied by a factor of its own."""
        if bool((factor_M == 1).all()):
            return self
        directions = [[d_M * factor_M for d_M in of_repeat] for of_repeat in self._directions]
        return Vectors(self._centre_M * factor_M, directions, self._steps)


def vectors_of(
    centre: Blocked, directions: Sequence[Sequence[Blocked]], steps: Steps, device: torch.device
) -> Vectors:
    """Return vectors that move cells on a device; what is there already is in one block."""
    if any(direction.on_host for of_repeat in directions for direction in of_repeat):
        return HostVectors(centre, directions, steps, device)
    along = [[direction.blocks[0] for direction in of_repeat] for of_repeat in directions]
    return Vectors(centre.blocks[0], along, steps)


class HostVectors(Vectors):
    """Vectors of which some are in the host's memory.

    A cell is made block by block on the device, by the operations of `Vectors` in their order, so
    it has the same bits.  On a card a block is copied while the one before is added up.

    Args:
        device: Where cells are.
    """

    def __init__(
        self,
        centre: Blocked,
        directions: Sequence[Sequence[Blocked]],
        steps: Steps,
        device: torch.device,
    ) -> None:
        self._centre, self._along, self._steps, self._device = centre, directions, steps, device
        self._dtype = centre.blocks[0].dtype
        most = 1 + max(len(of_repeat) for of_repeat in directions)
        self._slots = [_Slot(most, self._dtype, device) for _ in range(2)]

    def empty(self, dtype: torch.dtype | None = None) -> Tensor:
        """Return room for a vector on the device."""
        count = sum(len(block) for block in self._centre.blocks)
        return torch.empty(count, dtype=dtype or self._dtype, device=self._device)

    def displace(self, cell: Cell, out_M: Tensor) -> None:
        """Set a vector to a cell, as `Vectors.displace` does."""
        pairs = zip(self._steps(cell), self._along[cell.repeat], strict=False)
        moves = [(step, direction) for step, direction in pairs if step]
        vectors = [self._centre, *(direction for _, direction in moves)]
        arriving = self._arriving(vectors)
        for out, (start, *others) in zip(out_M.split(BLOCK), arriving, strict=True):
            total = start
            for (step, _), other in zip(moves, others, strict=True):
                total = torch.add(total, other, alpha=step, out=other)
            out.copy_(total)

    def _arriving(self, vectors: Sequence[Blocked]) -> Iterator[Sequence[Tensor]]:
        """Yield the blocks of several vectors on the device, while the next ones are copied."""
        rows = list(zip(*(vector.parts() for vector in vectors), strict=True))
        on_host = [vector.on_host for vector in vectors]
        coming: list[tuple[_Slot, Sequence[Tensor]]] = []
        for number, row in enumerate([*rows, None]):
            if row is not None:
                slot = self._slots[number % 2]
                coming.append((slot, slot.fetch(row, on_host)))
            if number:
                slot, blocks = coming.pop(0)
                slot.arrived()
                yield blocks
                slot.release()

    def times(self, factor_M: Tensor) -> Vectors:
        """Return the same cells with every number multiplied by a factor of its own."""
        if bool((factor_M == 1).all()):
            return self
        centre = self._centre.times(factor_M)
        along = [[direction.times(factor_M) for direction in of] for of in self._along]
        return HostVectors(centre, along, self._steps, self._device)


class _Slot:
    """Room on the device for a block of each vector.

    On a card it is filled by a stream of its own.  Events order that after the reading of what was
    there before, and the stream of cells after it.
    """

    def __init__(self, count: int, dtype: torch.dtype, device: torch.device) -> None:
        with torch.inference_mode(False):  # cells are displaced in and out of that mode
            self._rooms = [torch.empty(BLOCK, dtype=dtype, device=device) for _ in range(count)]
        self._device, self._is_card = device, device.type == "cuda"
        if self._is_card:
            self._copies: Any = torch.cuda.Stream(device)
            self._copied, self._used = torch.cuda.Event(), torch.cuda.Event()
            # The room may have been somebody else's until now.
            self._used.record(torch.cuda.current_stream(device))

    def fetch(self, blocks: Sequence[Tensor], on_host: Sequence[bool]) -> Sequence[Tensor]:
        """Return blocks on the device: those of the host copied, the others themselves."""
        if not self._is_card:
            return self._filled(blocks, on_host)
        with torch.cuda.stream(self._copies):
            self._copies.wait_event(self._used)
            filled = self._filled(blocks, on_host)
            self._copied.record(self._copies)
        return filled

    def _filled(self, blocks: Sequence[Tensor], on_host: Sequence[bool]) -> Sequence[Tensor]:
        rooms = zip(blocks, on_host, self._rooms, strict=False)
        return [room[: len(b)].copy_(b, non_blocking=True) if h else b for b, h, room in rooms]

    def arrived(self) -> None:
        """Let what is computed next wait for the blocks."""
        if self._is_card:
            torch.cuda.current_stream(self._device).wait_event(self._copied)

    def release(self) -> None:
        """Let the next blocks come once what was asked of these is computed."""
        if self._is_card:
            self._used.record(torch.cuda.current_stream(self._device))
