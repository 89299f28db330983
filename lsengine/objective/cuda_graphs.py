"""Work that is recorded once as a CUDA graph and replayed for every batch of every cell.

A small network's kernels take longer to launch than to run.  A graph launches all of them at once.
It reads its arguments, and everything else that the work looks at, from fixed places in memory, so
whoever displaces a network writes its numbers in place.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lsengine import devices
from lsengine.data.nesting import Nested, leaves, mapped
from lsengine.log import NOTICE

log = logging.getLogger(__name__)
Work = Callable[..., tuple[Any, ...]]
Record = Callable[[Callable[[], tuple[Any, ...]]], tuple[Callable[[], None], tuple[Any, ...]]]
_Recording = tuple[tuple[Nested, ...], Callable[[], None], tuple[Any, ...]]
_MOST = 16  # shapes of arguments: whole and last batches of a few splits


def record(work: Callable[[], tuple[Any, ...]]) -> tuple[Callable[[], None], tuple[Any, ...]]:
    """Record work as a CUDA graph; return what replays it, and where its results then are.

    Raises:
        RuntimeError: If the work does what cannot be recorded, such as reading a number from the
            device.
    """
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # libraries allocate what they need per stream before recording
        work()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        results = work()
    return graph.replay, results


class Replayed:
    """Work on tensors, replayed where that gives the same bits, and else done anew each time.

    Args:
        work: Takes tensors, or nestings of them that are always alike, and returns a tuple of
            tensors and constants.  It must do the same kernels whatever the tensors hold.
        places: Returns the tensors that it reads besides its arguments.  When one of them has
            moved in memory, the work is recorded anew.
        record: As `record`.
    """

    def __init__(
        self, work: Work, places: Callable[[], Sequence[Tensor]], record: Record = record
    ) -> None:
        self._work, self._places, self._record = work, places, record
        self._recorded: dict[Any, _Recording] = {}
        self._addresses: list[int] = []
        self._gives_up = False

    def forget(self) -> None:
        """Give the memory of all graphs back."""
        self._recorded.clear()

    def refresh(self) -> None:
        """Forget what was recorded if what it reads is elsewhere now; call it once a cell."""
        addresses = [tensor.data_ptr() for tensor in self._places()]
        if addresses != self._addresses:
            self.forget()
            self._addresses = addresses

    def __call__(self, *arguments: Any) -> tuple[Any, ...]:
        """Return the results; they are overwritten by the next call."""
        if self._gives_up:
            return self._work(*arguments)
        given = [tensor for _, tensor in leaves(arguments)]
        key = tuple((a.shape, a.stride(), a.dtype) for a in given)
        if key not in self._recorded:
            return self._first(key, arguments)
        inputs, replay, results = self._recorded[key]
        for (_, place), argument in zip(leaves(inputs), given, strict=True):
            place.copy_(argument)
        replay()
        return results

    def _first(self, key: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """Do the work, and record it if a replay gives the same bits."""
        expected = self._work(*arguments)
        if len(self._recorded) >= _MOST:
            self.forget()
        try:
            inputs = tuple(mapped(Tensor.clone, argument) for argument in arguments)
            replay, results = self._record(lambda: self._work(*inputs))
            replay()
            reason = "" if _equal(results, expected) else "a replay has other last bits"
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            if devices.is_out_of_memory(error):
                reason = "there is no memory for one"
        if reason:
            log.log(NOTICE, "running without CUDA graphs, which is slower: %s", reason)
            self._gives_up = True
            self.forget()
        else:
            self._recorded[key] = inputs, replay, results
        return expected


def _equal(found: Sequence[Any], expected: Sequence[Any]) -> bool:
    """Whether two results are the same, bit for bit but for the kind of NaN."""
    for a, b in zip(found, expected, strict=True):
        if isinstance(a, tuple):
            same = _equal(a, b)
        elif isinstance(a, Tensor):
            same = torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)
        else:
            same = a == b
        if not same:
            return False
    return True
