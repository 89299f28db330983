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
from torch import Tensor

Prepare = Callable[[Tensor], Tensor]
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


class Paired(Lazy[tuple[Tensor, Tensor]]):
    """The inputs of batches, and their targets."""

    def __init__(self, inputs: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
        self._inputs, self._targets = inputs, targets

    def __len__(self) -> int:
        return len(self._targets)

    def _at(self, number: int) -> tuple[Tensor, Tensor]:
        return self._inputs[number], self._targets[number]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(self._inputs, self._targets, strict=True)


class PreparedBatches(Lazy[Tensor]):
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
        self, raw_N: Tensor, size: int, prepare: Prepare, device: torch.device, *, ahead: bool
    ) -> None:
        self._parts = raw_N.split(size)
        self._prepare, self._device, self._ahead = prepare, device, ahead
        self._slots: list[_Slot] = []

    def __len__(self) -> int:
        return len(self._parts)

    def _at(self, number: int) -> Tensor:
        return self._prepare(self._parts[number].to(self._device))

    def __iter__(self) -> Iterator[Tensor]:
        if self._ahead and len(self) > 1:
            return self._copied_ahead()
        return (self[number] for number in range(len(self)))

    def _copied_ahead(self) -> Iterator[Tensor]:
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

    def __init__(self, like_N: Tensor) -> None:
        with torch.inference_mode(False):  # written by a thread that knows of no such mode
            self._host_N = torch.empty(like_N.shape, dtype=like_N.dtype)
        self._array_N = self._host_N.numpy()
        self._count = 0

    def fetch(self, part_N: Tensor) -> None:
        """Copy a batch, in one thread, which leaves the cores to the network."""
        self._count = len(part_N)
        np.copyto(self._array_N[: self._count], part_N.numpy())

    def arrived(self) -> Tensor:
        """Return the batch that was fetched, to be read until `release`."""
        return self._host_N[: self._count]

    def release(self) -> None:
        """Let the next batch take its place once what was asked of it is computed."""

    def settle(self) -> None:
        """Wait until nothing is on its way."""


class _CardSlot(_Slot):
    """Room for one batch on its way to a card: pinned memory, and memory of the card.

    The copy is made on a stream of its own.  Events order it after the reading of the batch that
    was there before, and the network's stream after it.
    """

    def __init__(self, like_N: Tensor, copies: Any, device: torch.device) -> None:
        self._copies, self._device, self._count = copies, device, 0
        with torch.inference_mode(False):
            self._host_N = torch.empty(like_N.shape, dtype=like_N.dtype, pin_memory=True)
            self._device_N = torch.empty(like_N.shape, dtype=like_N.dtype, device=device)
        self._array_N = self._host_N.numpy()
        self._copied, self._used = torch.cuda.Event(), torch.cuda.Event()
        # The room may have been somebody else's until now.
        self._used.record(torch.cuda.current_stream(device))

    def fetch(self, part_N: Tensor) -> None:
        self._copied.synchronize()  # the pinned memory is still read until then
        super().fetch(part_N)
        with torch.cuda.stream(self._copies):
            self._copies.wait_event(self._used)
            self._device_N[: self._count].copy_(self._host_N[: self._count], non_blocking=True)
            self._copied.record(self._copies)

    def arrived(self) -> Tensor:
        torch.cuda.current_stream(self._device).wait_event(self._copied)
        return self._device_N[: self._count]

    def release(self) -> None:
        self._used.record(torch.cuda.current_stream(self._device))

    def settle(self) -> None:
        torch.cuda.current_stream(self._device).wait_stream(self._copies)


def _slots(like_N: Tensor, device: torch.device) -> list[_Slot]:
    if device.type != "cuda":
        return [_Slot(like_N) for _ in range(2)]
    copies: Any = torch.cuda.Stream(device)
    return [_CardSlot(like_N, copies, device) for _ in range(2)]
