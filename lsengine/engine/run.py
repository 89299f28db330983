"""One run of a job: what its file already has, what is settled, what is left to do."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from lsengine.engine.trajectory import Series

log = logging.getLogger(__name__)
_SETTLED = ("device_kind", "torch_version", "threads")


@dataclass(frozen=True, slots=True)
class Options:
    """What may differ between runs of one job; never affects values.

    Attributes:
        retry_failed: Evaluate failed cells again.
        chunk: Cells per chunk, or None to go by measured time.
        progress: ``auto``, ``bar``, ``lines`` or ``none``.
        trajectory_only: Evaluate checkpoints and no cells of the grid.
    """

    retry_failed: bool = False
    chunk: int | None = None
    progress: str = "auto"
    trajectory_only: bool = False

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
        from lsengine.engine import prepare, trajectory  # import torch

        self._prepare, self._job, self._options = prepare, job, options
        self.loaded = prepare.load(job)
        prepare.check(job, self.loaded)
        self._series = trajectory.find(job)
        digest = self._series.digest if self._series else None
        self._identity = prepare.identity(job, self.loaded.dataset, digest)
        self._grid = prepare.grid(job)
        count = self._grid.size + (len(self._series.paths) if self._series else 0)
        status = np.zeros(count, np.uint8)
        self._exists = job.output.exists()
        if self._exists:
            _refuse_other_job(job, self._identity, self._series)
            found = store.read_status(job.output)[:count]  # its checkpoints may be none of ours
            status[: len(found)] = found
            self._grid = store.read_grid(job.output)
        self.blocks: list[int] | None = None
        order = self._grid.visiting_order()
        if "curvature" in job.document.quantities:
            checkpoints = range(self._grid.size, count)
            self.blocks = [*self._grid.coarse_cells().tolist(), *checkpoints]
            order = self._grid.visiting_order_by_blocks()
        extra = np.arange(self._grid.size, count)
        concerned = extra if options.trajectory_only else np.append(order, extra)
        self._count = len(concerned)
        self._failed = set(concerned[status[concerned] == FAILED].tolist())
        self.cells: list[int] = concerned[options.pending(status)[concerned]].tolist()
        self._done = int(np.count_nonzero(status[concerned] == DONE))
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
            self._add_trajectory()
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
        self._progress = Progress(self._count, self._done, self._options.progress)
        return Plan(
            path=self._job.output,
            parallel=parallel,
            precision=str(attributes["precision"]),
            batch_size=int(attributes["batch_size"]),
            checkpoints=self._series.paths if self._series else (),
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
                f"{output}: {self._done} of {self._count} cells done, {len(self._failed)} "
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
            f"{error}: {self._done} of {self._count} cells of {self._job.output} are done; "
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
        from lsengine.engine import eigenvectors, trajectory  # import torch

        job, loaded = self._job, self.loaded
        found = eigenvectors.of_directions(
            job, loaded, facts, batch_size=int(attributes["batch_size"]), tick=tick
        )
        for axis, pair in found.items():
            attributes[f"{axis}_eigenvalue"] = pair.value
            attributes[f"{axis}_eigenvalue_residual"] = pair.residual
        computed = {axis: pair.vector for axis, pair in found.items()}
        components = trajectory.of_directions(job, loaded.model, self._series)
        computed |= components.directions
        directions = self._prepare.make_directions(job, loaded.model, computed)
        warning = self._prepare.statistics_warning(self._job, self.loaded.model)
        if warning:
            log.warning(warning)
        cosine = self._prepare.cosine(directions)
        if cosine is not None:
            attributes["direction_cosine"] = cosine
        names = self._prepare.quantities(job, loaded.dataset)
        if self._series is None:
            return Layout(self._grid, names, attributes, directions)
        track = trajectory.project(job, loaded, self._series, directions, components.ratio)
        self._grid = self._prepare.grid(job, trajectory.ranges(job, track))
        return Layout(self._grid, names, attributes, directions, track)

    def _add_trajectory(self) -> None:
        """Give a surface that was made without one its group of checkpoints."""
        from lsengine.engine import trajectory

        job = self._job
        if self._series is None or store.read_trajectory(job.output) is not None:
            return
        directions = store.read_directions(job.output)
        if not directions:
            raise SurfaceError(f"{job.output}: holds no directions to project checkpoints on")
        track = trajectory.project(job, self.loaded, self._series, directions)
        store.amend(job.output, {"job": job.resolved()}, track)
        log.info("%s: now has a trajectory", job.output)

    def _announce(
        self, attributes: dict[str, Any], facts: Facts, world: World | None, parallel: bool
    ) -> None:
        log.info(
            "%s: cells=%d/%d done workers=%d writing=%s device=%s precision=%s batch_size=%s "
            "threads=%s",
            *(self._job.output, self._done, self._count, world.size - 1 if world else 1),
            *("parallel" if parallel else "gather", facts.device_kind),
            *(attributes["precision"], attributes["batch_size"], facts.threads),
        )
        if "direction_cosine" in attributes:
            log.info("cosine of the two directions: %.4f", attributes["direction_cosine"])

    def _listed_failures(self) -> str:
        surface = store.read(self._job.output)
        reasons = surface.provenance["failure"].ravel()
        if surface.trajectory is not None and "failure" in surface.trajectory.columns:
            reasons = np.append(reasons, surface.trajectory.columns["failure"])
        lines = []
        for index in sorted(self._failed)[:10]:
            if index < self._grid.size:
                cell = self._grid.cell(index)
                where = f"alpha={cell.alpha:g}" + (f" beta={cell.beta:g}" if cell.beta else "")
            else:
                assert self._series is not None
                where = self._series.paths[index - self._grid.size].name
            lines.append(f"\n  cell {index} ({where}): {reasons[index].decode(errors='replace')}")
        more = len(self._failed) - len(lines)
        return "".join(lines) + (f"\n  and {more} more" if more else "")


def _refuse_other_job(job: Job, identity: dict[str, Any], series: Series | None) -> None:
    stored = store.read_trajectory(job.output) if series is not None else None
    if series is not None and stored is not None and (other := series.difference(stored.columns)):
        raise SurfaceError(
            f"{job.output}: its trajectory is of other checkpoints ({other}); give this job "
            "another output, or move the file away"
        )
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
