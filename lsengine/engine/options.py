"""What may differ between runs of one job."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lsengine.surface import FAILED, MISSING


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What may differ between runs of one job; it never affects values.

    Attributes:
        retry_failed: Evaluate failed and damaged cells again.
        chunk: Cells per chunk, or None to go by measured time.
        progress: ``auto``, ``bar``, ``lines`` or ``none``.
        trajectory_only: Evaluate checkpoints and no cells of the grid.
        extend: A surface whose cells a new one takes over.
        shard: k and n: evaluate only the k-th of n parts, into a file of its own.
        cell_limit: Evaluate at most so many cells, for an estimate.
        end_if_hung: End this process by SIGALRM when it hangs for longer than the job allows, as
            the command line does.  Without it a caller in Python keeps its process.
    """

    retry_failed: bool = False
    chunk: int | None = None
    progress: str = "auto"
    trajectory_only: bool = False
    extend: Path | None = None
    shard: tuple[int, int] | None = None
    cell_limit: int | None = None
    end_if_hung: bool = False

    def pending(self, status: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Return the mask of the cells that a run has to evaluate."""
        return np.isin(status, (MISSING, FAILED) if self.retry_failed else (MISSING,))
