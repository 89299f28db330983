"""Batches of inputs that are made ready for the network when they are asked for.

Shape suffix: N samples.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar, overload

import numpy as np
import torch

from lsengine.data.nesting import Nested, leaves, mapped, split

Prepare = Callable[[Nested], Nested]
"""From inputs as they were stored, on the device, to new ones as the network reads them."""


T = TypeVar("T")


class Lazy(Sequence[T]):
    """A sequence whose things are made when they are asked for, and not kept."""

    def _at(self, number: int) -> T:
        raise NotImplementedError

    @overload
    def __getitem__(self, number: int) -> T: ...
    @overload
    def __getitem__(self, number: slice) -> list[T]: ...
    def __getitem__(self, number: int | slice) -> T | list[T]:
        numbers = range(len(self))[number]
        return self._at(numbers) if isinstance(numbers, int) else [self._at(n) for n in numbers]


class Paired(Lazy["tuple[Nested, Nested | None]"]):
    """The inputs of batches, and their targets."""

    def __init__(self, inputs: Sequence[Nested], targets: Sequence[Nested | None]) -> None:
        self._inputs, self._targets = inputs, targets

    def __len__(self) -> int:
        return len(self._targets)

    def _at(self, number: int) -> tuple[Nested, Nested | None]:
        return self._inputs[number], self._targets[number]

    def __iter__(self) -> Iterator[tuple[Nested, Nested | None]]:
        return zip(self._inputs, self._targets, strict=True)


class PreparedBatches(Lazy[Nested]):
    """The batches of a split, in order, each made anew whenever it is asked for.

    Args:
        raw_N: Inputs as they were stored, row-major; on the host, or on the device.
        size: Samples of a batch; the last one may have fewer.
        prepare: Makes a batch ready on the device.
        device: Where batches go.
        ahead: Whether to copy batches while the ones before are computed.  Then the host's memory
            needs room for two of them beside the data, and so does the device.
    """

    def __init__(
        self, raw_N: Nested, size: int, prepare: Prepare, device: torch.device, *, ahead: bool
    ) -> None:
        self._parts = split(raw_N, size)
        self._prepare, self._device, self._ahead = prepare, device, ahead
        self._slots: list[_Slot] = []

    def __len__(self) -> int:
        return len(self._parts)

    def _at(self, number: int) -> Nested:
        return self._prepare(mapped(lambda t: t.to(self._device), self._parts[number]))

    def __iter__(self) -> Iterator[Nested]:
        if self._ahead and len(self) > 1:
            return self._copied_ahead()
        return (self[number] for number in range(len(self)))

    def _copied_ahead(self) -> Iterator[Nested]:
        """Yield the batches, with a thread that copies the next two."""
        slots, self._slots = self._slots or _slots(self._parts[0], self._device), []
        turns = [slots[number % 2] for number in range(len(self))]
        coming: deque[Future[None]] = deque()
        try:
            with ThreadPoolExecutor(1) as reader:
                try:
                    work = (
                        reader.submit(slot.fetch, part)
                        for slot, part in zip(turns, self._parts, strict=True)
                    )
                    coming.extend(next(work) for _ in range(2))
                    for slot in turns:
                        coming.popleft().result()
                        batch = self._prepare(slot.arrived())
                        slot.release()
                        coming.extend(future for future in [next(work, None)] if future)
                        yield batch
                finally:  # whoever asks for no more batches may do so anywhere
                    for future in coming:
                        future.cancel()
        finally:
            for slot in slots:
                slot.settle()
            self._slots = slots


class _Slot:
    """Room for one batch on its way to a CPU, which is but a copy in memory."""

    def __init__(self, like_N: Nested, pin_memory: bool = False) -> None:
        with torch.inference_mode(False):  # written by a thread that knows of no such mode
            self._host_N = mapped(
                lambda t: torch.empty(t.shape, dtype=t.dtype, pin_memory=pin_memory), like_N
            )
        self._arrays_N = [tensor.numpy() for _, tensor in leaves(self._host_N)]
        self._count = 0

    def fetch(self, part_N: Nested) -> None:
        """Copy a batch, in one thread, which leaves the cores to the network."""
        for array_N, (_, tensor_N) in zip(self._arrays_N, leaves(part_N), strict=True):
            self._count = len(tensor_N)
            np.copyto(array_N[: self._count], tensor_N.numpy())

    def arrived(self) -> Nested:
        """Return the batch that was fetched, to be read until `release`."""
        return mapped(lambda tensor_N: tensor_N[: self._count], self._host_N)

    def release(self) -> None:
        """Let the next batch take its place once what was asked of it is computed."""

    def settle(self) -> None:
        """Wait until nothing is on its way."""


class _CardSlot(_Slot):
    """Room for one batch on its way to a card: pinned memory, and memory of the card.

    The copy is made on a stream of its own.  Events order it after the reading of the batch that
    was there before, and the network's stream after it.
    """

    def __init__(self, like_N: Nested, copies: Any, device: torch.device) -> None:
        super().__init__(like_N, pin_memory=True)
        self._copies, self._device = copies, device
        with torch.inference_mode(False):
            self._device_N = mapped(lambda t: torch.empty_like(t, device=device), self._host_N)
        self._copied, self._used = torch.cuda.Event(), torch.cuda.Event()
        # The room may have been somebody else's until now.
        self._used.record(torch.cuda.current_stream(device))

    def fetch(self, part_N: Nested) -> None:
        self._copied.synchronize()  # the pinned memory is still read until then
        super().fetch(part_N)
        with torch.cuda.stream(self._copies):
            self._copies.wait_event(self._used)
            pairs = zip(leaves(self._device_N), leaves(super().arrived()), strict=True)
            for (_, room_N), (_, tensor_N) in pairs:
                room_N[: self._count].copy_(tensor_N, non_blocking=True)
            self._copied.record(self._copies)

    def arrived(self) -> Nested:
        torch.cuda.current_stream(self._device).wait_event(self._copied)
        return mapped(lambda tensor_N: tensor_N[: self._count], self._device_N)

    def release(self) -> None:
        self._used.record(torch.cuda.current_stream(self._device))

    def settle(self) -> None:
        torch.cuda.current_stream(self._device).wait_stream(self._copies)


def _slots(like_N: Nested, device: torch.device) -> list[_Slot]:
    if device.type != "cuda":
        return [_Slot(like_N) for _ in range(2)]
    copies: Any = torch.cuda.Stream(device)
    return [_CardSlot(like_N, copies, device) for _ in range(2)]
