"""Which cells a run has to evaluate, how far it is, and how it ends."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lsengine import files, store
from lsengine.engine.options import Options
from lsengine.errors import CellsFailed, EnvironmentUnfit, LsengineError, Stopped
from lsengine.job import Job
from lsengine.log import Progress
from lsengine.store import CellResults
from lsengine.surface import DONE, FAILED, MISSING
from lsengine.surface.grid import Grid
from lsengine.wording import listed

log = logging.getLogger(__name__)
_MOST_FAILURES = 10  # told one by one


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


class Outcome:
    """Counts finished cells of a run, and says at the end how the surface stands."""

    def __init__(self, job: Job, inventory: Inventory) -> None:
        self._job, self._inventory = job, inventory
        self._failed, self._done = set(inventory.failed), inventory.done
        self._laid_out: os.stat_result | None = None
        self._start = time.monotonic()
        self._progress: Progress | None = None

    def begin(self, progress: str) -> None:
        """Remember which file has been laid out, and begin to report as `Options` say."""
        self._laid_out = self._job.output.stat()
        self._progress = Progress(
            "cells", total=self._inventory.count, done=self._done, style=progress
        )

    def count(self, results: CellResults) -> None:
        """Take note of finished cells."""
        self._failed -= set(results.cells)
        self._failed |= results.failures.keys()
        self._done += len(results.cells) - len(results.failures)
        if self._progress is not None:
            self._progress.advance(len(results.cells))

    def close(self) -> None:
        """Finish the progress bar."""
        if self._progress is not None:
            self._progress.close()

    def verify(self) -> None:
        """See that the surface is where it was laid out, and that all cells are in it.

        Raises:
            EnvironmentUnfit: If the path leads elsewhere, or cells are not in the file.
        """
        output = self._job.output
        try:
            stat = output.stat()
        except OSError as error:
            raise self._gone(str(error.strerror)) from None
        assert self._laid_out is not None
        if not os.path.samestat(stat, self._laid_out):
            raise EnvironmentUnfit(
                f"{output}: is another file than the one this run has written, which has been "
                "replaced or moved; bring that one back, and the same command goes on"
            )
        missing = np.isin(store.read_status(output)[self._inventory.concerned], MISSING)
        if missing.any():
            raise EnvironmentUnfit(
                f"{output}: {np.count_nonzero(missing)} cells that were written are not in the "
                "file: its file system has lost writes; the same command does them again"
            )

    @property
    def code(self) -> int:
        """The exit code of a run that has come to its end."""
        return CellsFailed.exit_code if self._failed else 0

    def conclude(self) -> None:
        """Say how the surface stands at the end.

        Raises:
            CellsFailed: If cells failed, in this run or before.
        """
        output, inventory = self._job.output, self._inventory
        has_curvature = "curvature" in self._job.document.quantities and output.exists()
        if has_curvature and (unsolved := store.read(output).unconverged):
            log.warning(
                f"{output}: {unsolved} of {inventory.grid.size} cells did not converge; raise "
                "curvature.max_products or curvature.basis for another surface"
            )
        if self._failed:
            raise CellsFailed(
                f"{output}: {self._done} of {inventory.count} cells done, {len(self._failed)} "
                f"failed; --retry-failed tries them again{self._listed_failures()}"
            )
        if not inventory.cells:
            log.info("%s: all %d cells are done; nothing to do", output, self._done)
            return
        seconds = time.monotonic() - self._start
        log.info("%s: all %d cells are done; %.1f s", output, self._done, seconds)

    def judged(self, error: LsengineError) -> LsengineError:
        """Return why a run ends: a stop because the file is not there any more is none.

        The lock goes with the file, and who misses it asks for a stop.
        """
        output = self._job.output
        place = output.parent if self._laid_out is None else output
        if isinstance(error, Stopped) and files.has_gone(place):
            return self._gone(str(error))
        return error

    def _gone(self, reason: str) -> EnvironmentUnfit:
        return EnvironmentUnfit(
            f"{self._job.output}: the file that this run has written is not there any more "
            f"({reason}): it was removed or moved, or its file system has gone; bring "
            "it back, and the same command goes on"
        )

    def stopped(self, error: Stopped) -> Stopped:
        """Return an error that also says how far the surface is."""
        return Stopped(
            f"{error}: {self._done} of {self._inventory.count} cells of {self._job.output} are "
            "done; the same command goes on with the rest"
        )

    def _listed_failures(self) -> str:
        surface = store.read(self._job.output)
        reasons = surface.provenance["failure"].ravel()
        if surface.trajectory is not None and "failure" in surface.trajectory.columns:
            reasons = np.append(reasons, surface.trajectory.columns["failure"])
        failures = [
            f"cell {cell} ({self._inventory.describe(cell)}): "
            f"{reasons[cell].decode(errors='replace')}"
            for cell in sorted(self._failed)
        ]
        return "\n  " + listed(failures, most=_MOST_FAILURES, separator="\n  ")


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
