"""One run of a job: what its file already has, what is settled, what is left to do."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsengine import __version__, store
from lsengine.engine.messages import Facts, Plan
from lsengine.engine.progress import Progress
from lsengine.errors import CellsFailed, EnvironmentUnfit, Stopped, SurfaceError
from lsengine.job import Job, cell_identity, fingerprint, first_difference
from lsengine.ranks import World
from lsengine.store import Layout, Results
from lsengine.surface import DONE, FAILED, MISSING

log = logging.getLogger(__name__)
_SETTLED = ("device_kind", "torch_version", "threads")


@dataclass(frozen=True, slots=True)
class Options:
    """What may differ between runs of one job; never affects values.

    Attributes:
        retry_failed: Evaluate failed cells again.
        chunk: Cells per chunk, or None to go by measured time.
        progress: ``auto``, ``bar``, ``lines`` or ``none``.
    """

    retry_failed: bool = False
    chunk: int | None = None
    progress: str = "auto"

    def pending(self, status: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Return the mask of the cells that a run has to evaluate."""
        wanted = (MISSING, FAILED) if self.retry_failed else (MISSING,)
        return np.isin(status, wanted)


class Run:
    """What the coordinator, or a process alone, knows about a job and its file.

    Args:
        job: Valid for ``eval``; its output's lock is held.
        options: See `Options`.

    Attributes:
        loaded: Model and data.
        cells: Flat indices to evaluate, in the order of visiting.
        blocks: The block of every cell of the grid, where blocks matter.

    Raises:
        UsageError: If checkpoint, network, data and loss do not go together.
        SurfaceError: If the file is damaged or belongs to another job.
    """

    def __init__(self, job: Job, options: Options) -> None:
        from lsengine.engine import prepare  # imports torch

        self._prepare, self._job, self._options = prepare, job, options
        self.loaded = prepare.load(job)
        prepare.check(job, self.loaded)
        self._identity = prepare.identity(job, self.loaded.dataset)
        self._grid = prepare.grid(job)
        self._status = np.zeros(self._grid.size, np.uint8)
        self._exists = job.output.exists()
        if self._exists:
            _refuse_other_job(job, self._identity)
            self._status = store.read_status(job.output)
        self._failed = set(np.flatnonzero(self._status == FAILED).tolist())
        self.blocks: list[int] | None = None
        order = self._grid.visiting_order()
        if "curvature" in job.document.quantities:
            self.blocks = self._grid.coarse_cells().tolist()
            order = self._grid.visiting_order_by_blocks()
        self.cells: list[int] = order[options.pending(self._status)[order]].tolist()
        self._done = int(np.count_nonzero(self._status == DONE))
        self._start = time.monotonic()
        self._progress: Progress | None = None

    def settle(self, facts: Facts, world: World | None, *, tick: Callable[[], None]) -> Plan:
        """Fix what all cells share, and lay the file out if there is none.

        Args:
            facts: Of the worker that settles what the job leaves open.
            world: The ranks, or None alone.
            tick: Called now and then while directions are computed; may raise to stop.

        Raises:
            EnvironmentUnfit: If the file cannot be made, or parallel writing is asked for and
                not possible.
            UsageError: If a direction cannot be made.
        """
        wants_parallel = self._wants_parallel(world)
        alone = world.alone if wants_parallel and world else None
        if self._exists:
            attributes = store.read_attributes(self._job.output)
            _warn_of_differences(attributes, facts)
            refusal = store.refuses_parallel(self._job.output, alone) if alone else None
        else:
            attributes = self._attributes(facts, world, wants_parallel)
            refusal = store.create(
                self._job.output, self._layout(attributes, facts, tick), comm=alone
            )
        if refusal and self._job.document.writing == "parallel":
            raise EnvironmentUnfit(
                f"writing: parallel is refused by this file system or MPI: {refusal}; use gather"
            )
        if refusal:
            log.warning("parallel writing is refused (%s); gathering instead", refusal)
        parallel = wants_parallel and not refusal
        self._announce(attributes, facts, world, parallel)
        self._progress = Progress(self._grid.size, self._done, self._options.progress)
        return Plan(
            path=self._job.output,
            parallel=parallel,
            precision=str(attributes["precision"]),
            batch_size=int(attributes["batch_size"]),
        )

    def count(self, results: Results) -> None:
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

    @property
    def code(self) -> int:
        """The exit code of a run that has come to its end."""
        return CellsFailed.exit_code if self._failed else 0

    def conclude(self) -> int:
        """Say how the surface stands at the end.

        Raises:
            CellsFailed: If cells failed, in this run or before.
        """
        output = self._job.output
        if self._failed:
            raise CellsFailed(
                f"{output}: {self._done} of {self._grid.size} cells done, {len(self._failed)} "
                f"failed; --retry-failed tries them again{self._listed_failures()}"
            )
        if not self.cells:
            log.info("%s: all %d cells are done; nothing to do", output, self._done)
            return 0
        seconds = time.monotonic() - self._start
        log.info("%s: all %d cells are done; %.1f s", output, self._done, seconds)
        return 0

    def stopped(self, error: Stopped) -> Stopped:
        """Return an error that also says how far the surface is."""
        return Stopped(
            f"{error}: {self._done} of {self._grid.size} cells of {self._job.output} are done; "
            "the same command goes on with the rest"
        )

    def _wants_parallel(self, world: World | None) -> bool:
        writing = self._job.document.writing
        if writing == "parallel" and not store.has_mpi():
            raise EnvironmentUnfit(
                "writing: parallel needs an h5py built with MPI; this one is serial; use auto or "
                "gather, or set up the environment with parallel HDF5"
            )
        return writing != "gather" and store.has_mpi() and world is not None

    def _attributes(
        self, facts: Facts, world: World | None, parallel: bool
    ) -> dict[str, str | int | float]:
        from lsengine.objective import automatic_batch_size

        document, digests = self._job.document, self._identity["digests"]
        batch_size = document.batch_size
        if batch_size == "auto":
            kind = facts.device_kind.partition(" ")[0]
            batch_size = automatic_batch_size(facts.sample_shape, kind)
        return {
            "lsengine_version": __version__,
            "name": document.name,
            "job": self._job.resolved(),
            "identity": json.dumps(self._identity, sort_keys=True),
            "fingerprint": fingerprint(self._identity),
            "cell_fingerprint": fingerprint(cell_identity(self._identity)),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "checkpoint_sha256": digests["checkpoint"],
            "data_sha256": digests["data"],
            "torch_version": facts.torch_version,
            "mpi_library": world.library if world else "none",
            "writing": "parallel" if parallel else "gather",
            "precision": document.precision,
            "batch_size": batch_size,
            "threads": facts.threads,
            "device_kind": facts.device_kind,
        }

    def _layout(
        self, attributes: dict[str, str | int | float], facts: Facts, tick: Callable[[], None]
    ) -> Layout:
        from lsengine.engine import eigenvectors  # imports torch

        found = eigenvectors.of_directions(
            self._job, self.loaded, facts, batch_size=int(attributes["batch_size"]), tick=tick
        )
        for axis, pair in found.items():
            attributes[f"{axis}_eigenvalue"] = pair.value
            attributes[f"{axis}_eigenvalue_residual"] = pair.residual
        vectors = {axis: pair.vector for axis, pair in found.items()}
        directions = self._prepare.make_directions(self._job, self.loaded.model, vectors)
        warning = self._prepare.statistics_warning(self._job, self.loaded.model)
        if warning:
            log.warning(warning)
        cosine = self._prepare.cosine(directions)
        if cosine is not None:
            attributes["direction_cosine"] = cosine
        names = self._prepare.quantities(self._job, self.loaded.dataset)
        return Layout(self._grid, names, attributes, directions)

    def _announce(
        self, attributes: dict[str, Any], facts: Facts, world: World | None, parallel: bool
    ) -> None:
        log.info(
            "%s: cells=%d/%d done workers=%d writing=%s device=%s precision=%s batch_size=%s "
            "threads=%s",
            *(self._job.output, self._done, self._grid.size, world.size - 1 if world else 1),
            *("parallel" if parallel else "gather", facts.device_kind),
            *(attributes["precision"], attributes["batch_size"], facts.threads),
        )
        if "direction_cosine" in attributes:
            log.info("cosine of the two directions: %.4f", attributes["direction_cosine"])

    def _listed_failures(self) -> str:
        surface = store.read(self._job.output)
        reasons = surface.provenance["failure"].ravel()
        lines = []
        for index in sorted(self._failed)[:10]:
            cell = self._grid.cell(index)
            where = f"alpha={cell.alpha:g}" + (f" beta={cell.beta:g}" if cell.beta else "")
            lines.append(f"\n  cell {index} ({where}): {reasons[index].decode(errors='replace')}")
        more = len(self._failed) - len(lines)
        return "".join(lines) + (f"\n  and {more} more" if more else "")


def _refuse_other_job(job: Job, identity: dict[str, Any]) -> None:
    attributes = store.read_attributes(job.output)
    if attributes.get("fingerprint") == fingerprint(identity):
        return
    try:
        difference = first_difference(identity, json.loads(attributes["identity"]))
    except (KeyError, ValueError):
        raise SurfaceError(f"{job.output}: damaged: it does not say which job it is of") from None
    raise SurfaceError(
        f"{job.output}: belongs to another job: {difference}; give this job another output, or "
        "move the file away"
    )


def _warn_of_differences(attributes: dict[str, Any], facts: Facts) -> None:
    for name in _SETTLED:
        here, there = getattr(facts, name), attributes.get(name)
        if here != there:
            log.warning(
                "%s is %s here, %s in the file; new cells agree with the old ones to the "
                "precision's tolerance, not bit by bit",
                *(name, here, there),
            )
