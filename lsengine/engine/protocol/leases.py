"""Leases: which cells are left, and who has which of them.

A chunk is leased to the worker that asks; what it does not report as finished goes back, at once
when the worker is lost, after a while when it is silent.

A silent worker cannot be told from a dead one, so its lease expires without its consent, and it
may come back and report cells that others have done meanwhile.  That does no harm: a cell is a
pure function of the job, so both have the same bits.  It counts once: only cells that went back
are watched for it, and whoever reports one first takes it off the queue.  A lease expires after
twenty times the worker's own longest cell, too, so that slow workers are not taken for silent.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

_REPORT_S = 0.25  # between a worker's reports, at least
# However many report, rank 0 hears and answers at most 1,000 reports a second; and 100 where it
# writes them, as each is synchronised with the disk twice.
_HEARD_S, _WRITTEN_S = 0.001, 0.01
# In a chunk: a worker waits for an answer once a chunk, and for none to the reports within.
REPORTS = 4
_MULTIPLE = 20  # of its longest time per cell a worker may be silent, at least


def report_interval(workers: int, *, gathers: bool) -> float:
    """Return the seconds between a worker's reports; if it gathers, rank 0 writes them."""
    return max(_REPORT_S, workers * (_WRITTEN_S if gathers else _HEARD_S))


class Leases:
    """The cells of one run on their way.

    Args:
        cells: Flat indices in the order of visiting.
        workers: How many share them.
        chunk: Cells per lease, or None to go by measured time.
        report_s: Seconds between the reports of a worker, and a part of its chunks then.
        blocks: For every cell the block it belongs to, where it is better that one worker
            does a whole block.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        cells: Iterable[int],
        workers: int,
        *,
        chunk: int | None = None,
        report_s: float = _REPORT_S,
        blocks: Sequence[int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue = deque(cells)
        self._workers, self._blocks, self._clock = workers, blocks, clock
        self._chunk, self._chunk_s = chunk, REPORTS * report_s
        self._leased: dict[int, list[int]] = {}
        self._heard: dict[int, float] = {}
        self._cell_s: dict[int, float] = {}
        self._longest_s: dict[int, float] = {}
        self._finished: dict[int, bool] = {}  # of the cells that went back: some finish twice

    def __bool__(self) -> bool:
        return bool(self._queue or self._leased)

    @property
    def waiting(self) -> int:
        """How many cells nobody has."""
        return len(self._queue)

    def take(self, rank: int) -> list[int]:
        """Lease the next chunk to a worker; empty if nothing waits."""
        size = self._chunk or chunk_size(
            len(self._queue), self._workers, self._cell_s.get(rank, 0.0), self._chunk_s
        )
        if self._blocks is not None and self._chunk is None and self._queue:
            size = max(size, self._size_of_block(self._blocks))
        chunk = [self._queue.popleft() for _ in range(min(size, len(self._queue)))]
        if chunk:
            self._leased[rank] = chunk
            self._heard[rank] = self._clock()
        return chunk

    def finish(
        self, rank: int, cells: Sequence[int], seconds: float, *, goes_on: bool = False
    ) -> list[int]:
        """Record finished cells; without more to come, return the others to the queue.

        Returns:
            The cells that had not been finished by another worker before.
        """
        new = [cell for cell in cells if not self._finished.get(cell)]
        for cell in new:
            if cell in self._finished:
                self._finished[cell] = True
        if len(self._queue) and any(cell in self._finished for cell in new):
            self._queue = deque(cell for cell in self._queue if not self._finished.get(cell))
        if cells:
            self._cell_s[rank] = seconds / len(cells)
            self._longest_s[rank] = max(self._longest_s.get(rank, 0.0), self._cell_s[rank])
        self._heard[rank] = self._clock()
        finished = set(cells)
        unfinished = [cell for cell in self._leased.pop(rank, []) if cell not in finished]
        if goes_on and unfinished:
            self._leased[rank] = unfinished
        else:
            self._queue.extendleft(reversed(unfinished))
        return new

    def give_back(self, rank: int) -> list[int]:
        """Take a worker's lease away and return its cells, which wait again."""
        cells = [c for c in self._leased.pop(rank, []) if not self._finished.get(c)]
        self._finished.update(dict.fromkeys(cells, False))
        self._queue.extendleft(reversed(cells))
        return cells

    def silent(self, patience_s: float) -> dict[int, float]:
        """Return the workers that have a lease and have been silent for too long, and for how long.

        Rank 0, which asks, is none of them.  Every worker may be silent for ``patience_s``, longer
        where its cells take long.
        """
        now = self._clock()
        silence = {rank: now - self._heard[rank] for rank in self._leased if rank}
        return {
            rank: seconds
            for rank, seconds in silence.items()
            if seconds > max(patience_s, _MULTIPLE * self._longest_s.get(rank, 0.0))
        }

    def _size_of_block(self, blocks: Sequence[int]) -> int:
        """Return how many cells at the head of the queue share a block, or a fair share of all.

        Whoever begins a block should end it: every worker in it needs its coarse cell's vectors.
        """
        share = max(1, len(self._queue) // (2 * self._workers))
        head = list(itertools.islice(self._queue, share))
        return len(list(itertools.takewhile(lambda c: blocks[c] == blocks[head[0]], head)))


def chunk_size(remaining: int, workers: int, cell_s: float, target_s: float = 0.25) -> int:
    """Return how many cells to hand to a worker at once.

    About ``target_s`` seconds of work, so that little is lost with a worker and messages stay
    rare; and never more than half of a fair share of what remains, so that all workers end
    together.

    ``cell_s`` are measured seconds per cell of this worker, 0 if not known yet.
    """
    if cell_s <= 0:
        return min(1, remaining)
    by_time = max(1, int(target_s / cell_s))
    by_share = max(1, remaining // (2 * workers))
    return min(by_time, by_share, remaining)
