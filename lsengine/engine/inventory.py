"""Which cells a run has to evaluate, and which its surface file already has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lsengine import store
from lsengine.engine.options import Options
from lsengine.job import Job
from lsengine.surface import DONE, FAILED
from lsengine.surface.grid import Grid


class Inventory:
    """The cells of a run: those it is concerned with, and what a file that exists says of them.

    A cell is a flat index into the grid; the checkpoints of a trajectory follow.

    Attributes:
        cells: Those to evaluate, in the order of visiting.
        blocks: The block of every cell, where it is better that one worker does a whole block.
        concerned: Those of the whole run, done or not, (C,) in the order of visiting.
        failed: Those of them that have failed.
        done: How many of them are done.
    """

    def __init__(
        self,
        job: Job,
        options: Options,
        grid: Grid,
        checkpoints: Sequence[Path],
        cells_per_pass: int,
    ) -> None:
        self.grid, self.checkpoints = grid, checkpoints
        self.blocks = self._blocks(job, cells_per_pass)
        self.concerned = self._concerned(job, options, cells_per_pass)
        status = np.zeros(grid.size + len(checkpoints), np.uint8)
        if job.output.exists():
            stored = store.read_status(job.output)[: len(status)]  # of other checkpoints, too
            status[: len(stored)] = stored
        status_C = status[self.concerned]
        self.cells: list[int] = self.concerned[options.pending(status_C)].tolist()
        self.failed: set[int] = set(self.concerned[status_C == FAILED].tolist())
        self.done = int(np.count_nonzero(status_C == DONE))

    @property
    def count(self) -> int:
        """How many cells the run is concerned with."""
        return len(self.concerned)

    def describe(self, cell: int) -> str:
        """Return where a cell is, for a person."""
        if cell < self.grid.size:
            return self.grid.describe(self.grid.cell(cell))
        return self.checkpoints[cell - self.grid.size].name

    def _blocks(self, job: Job, cells_per_pass: int) -> list[int] | None:
        """Return the block of every cell; a checkpoint is a block of its own."""
        count = len(self.checkpoints)
        if "curvature" in job.document.quantities:
            first = self.grid.size
            return [*self.grid.warm_start_cells().tolist(), *range(first, first + count)]
        if cells_per_pass > 1:  # groups have numbers from 0 on
            return [*self.grid.pass_groups(cells_per_pass).tolist(), *range(-count, 0)]
        return None

    def _concerned(self, job: Job, options: Options, cells_per_pass: int) -> NDArray[np.int64]:
        grid, by_blocks = self.grid, "curvature" in job.document.quantities
        order = grid.visiting_order_by_blocks() if by_blocks else grid.visiting_order()
        checkpoints = np.arange(self.grid.size, self.grid.size + len(self.checkpoints))
        concerned = checkpoints if options.trajectory_only else np.append(order, checkpoints)
        if job.shard is not None:
            blocks = self.blocks if cells_per_pass == 1 else None  # groups may be few
            concerned = concerned[_share(concerned, blocks, *job.shard)]
        return concerned[: options.cell_limit]


def _share(
    cells: NDArray[np.int64], blocks: list[int] | None, shard: int, shards: int
) -> NDArray[np.bool_]:
    """Return which cells are in the ``shard``-th of ``shards``, dealt out in order of visiting.

    Every shard is a coarse picture of the whole.  Cells of one block, which share work, stay
    together.
    """
    keys = cells if blocks is None else np.asarray(blocks)[cells]
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    turn = np.argsort(np.argsort(first))
    return np.asarray(turn[inverse] % shards == shard - 1)
