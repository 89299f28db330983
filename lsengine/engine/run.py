"""One run of a job: what its file already has, what is settled, what is left to do."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsengine import __version__, store
from lsengine.engine import compatibility
from lsengine.engine.messages import Plan, WorkerInfo
from lsengine.engine.progress import Progress
from lsengine.errors import CellsFailed, EnvironmentUnfit, Stopped, SurfaceError
from lsengine.job import Job, cell_identity, fingerprint
from lsengine.ranks import World
from lsengine.store import CellResults, Layout
from lsengine.surface import DONE, FAILED, MISSING

log = logging.getLogger(__name__)
Tick = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Options:
    """What may differ between runs of one job; never affects values.

    Attributes:
        retry_failed: Evaluate failed cells again.
        chunk: Cells per chunk, or None to go by measured time.
        progress: ``auto``, ``bar``, ``lines`` or ``none``.
        trajectory_only: Evaluate checkpoints and no cells of the grid.
        extend: A surface whose cells a new one takes over.
        shard: k and n: evaluate only the k-th of n parts, into a file of its own.
        cell_limit: Evaluate at most so many cells, for an estimate.
    """

    retry_failed: bool = False
    chunk: int | None = None
    progress: str = "auto"
    trajectory_only: bool = False
    extend: Path | None = None
    shard: tuple[int, int] | None = None
    cell_limit: int | None = None

    def pending(self, status: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Return the mask of the cells that a run has to evaluate."""
        wanted = (MISSING, FAILED) if self.retry_failed else (MISSING,)
        return np.isin(status, wanted)


class Run:
    """What the coordinator, or a process alone, knows about a job and its file.

    Args:
        job: Valid for ``eval``; its output's lock is held.
        options: See `Options`.
        tick: Called now and then while checkpoints are read; may raise to stop.

    Attributes:
        loaded: Model and data.
        cells: Flat indices to evaluate, in the order of visiting.
        blocks: The block of every cell of the grid, where blocks matter.

    Raises:
        UsageError: If checkpoint, network, data and loss do not go together.
        SurfaceError: If the file is damaged or belongs to another job.
    """

    def __init__(self, job: Job, options: Options, tick: Tick = lambda: None) -> None:
        from lsengine.engine import prepare
        from lsengine.engine.prepare import checkpoint_series  # import torch

        self._job, self._options = job, options
        self.loaded = prepare.load(job)
        prepare.check(job, self.loaded)
        self._series = checkpoint_series.find(job, tick)
        digest = self._series.digest if self._series else None
        self._identity = prepare.identity(job, self.loaded, digest)
        self._grid = prepare.grid(job)
        self._exists = job.output.exists()
        if self._exists:
            compatibility.refuse_other_job(job, self._identity, self._series)
            self._grid = store.read_grid(job.output)
        if options.extend is not None:
            compatibility.refuse_other_cells(options.extend, self._identity)
            if self._exists:
                log.warning("%s is there already; --extend has no effect", job.output)
        self._cells_per_pass = self._group_size()
        self._take_stock()
        self._start = time.monotonic()
        self._progress: Progress | None = None

    def _take_stock(self) -> None:
        """Find out what is left to do."""
        job, options = self._job, self._options
        count = self._grid.size + (len(self._series.paths) if self._series else 0)
        status = np.zeros(count, np.uint8)
        if job.output.exists():
            found = store.read_status(job.output)[:count]  # its checkpoints may be none of ours
            status[: len(found)] = found
        self.blocks: list[int] | None = None
        order = self._grid.visiting_order()
        if "curvature" in job.document.quantities:
            checkpoints = range(self._grid.size, count)
            self.blocks = [*self._grid.warm_start_cells().tolist(), *checkpoints]
            order = self._grid.visiting_order_by_blocks()
        elif self._cells_per_pass > 1:
            self.blocks = [
                *self._grid.pass_groups(self._cells_per_pass).tolist(),
                *range(self._grid.size - count, 0),
            ]
        extra = np.arange(self._grid.size, count)
        concerned = extra if options.trajectory_only else np.append(order, extra)
        if job.shard is not None:
            blocks = self.blocks if self._cells_per_pass == 1 else None  # groups may be few
            concerned = concerned[_share(concerned, blocks, *job.shard)]
        concerned = concerned[: options.cell_limit]
        self._concerned, self._count = concerned, len(concerned)
        self._failed = set(concerned[status[concerned] == FAILED].tolist())
        self.cells: list[int] = concerned[options.pending(status)[concerned]].tolist()
        self._done = int(np.count_nonzero(status[concerned] == DONE))

    def _group_size(self) -> int:
        """Return how many cells are evaluated at once: as the file has it, or by arithmetic."""
        from lsengine.objective import batched  # imports torch

        document, dataset = self._job.document, self.loaded.dataset
        is_plain = document.precision in ("float32", "float64") and ":" not in document.loss
        is_fixed = document.batch_norm.policy != "recalibrated"
        # Checkpoints go one by one, and so do the cells that they are compared with.
        is_alone = "curvature" in document.quantities or self._series is not None
        if document.cells_per_pass == 1 or is_alone or not (is_plain and is_fixed):
            return 1
        file = self._job.output if self._exists else self._options.extend
        if file is not None:  # what was settled for its cells is settled
            return int(store.read_attributes(file).get("cells_per_pass", 1))
        sample = next(iter(dataset.splits.values())).x[0]
        return batched.cells_per_pass(self.loaded.model, sample.shape)

    def settle(self, facts: WorkerInfo, world: World | None, *, tick: Tick) -> Plan:
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
        alone = world.comm_self if wants_parallel and world else None
        if self._exists:
            self._add_trajectory(tick)
            attributes = store.read_attributes(self._job.output)
            compatibility.warn_of_differences(attributes, facts)
            refusal = store.refuses_parallel(self._job.output, alone) if alone else None
        else:
            attributes = self._attributes(facts, world, wants_parallel)
            refusal = store.create(
                self._job.output, self._layout(attributes, facts, tick), comm=alone
            )
            if self._options.extend is not None:
                self._adopt(self._options.extend, facts)
        if refusal and self._job.document.writing == "parallel":
            raise EnvironmentUnfit(
                f"writing: parallel is refused by this file system or MPI: {refusal}; use gather"
            )
        if refusal:
            log.warning("parallel writing is refused (%s); gathering instead", refusal)
        parallel = wants_parallel and not refusal
        self._announce(attributes, facts, world, parallel)
        self._progress = Progress(self._count, self._done, self._options.progress)
        self._laid_out = self._job.output.stat()
        return Plan(
            path=self._job.output,
            parallel=parallel,
            precision=str(attributes["precision"]),
            batch_size=int(attributes["batch_size"]),
            cells_per_pass=self._cells_per_pass,
            digests=self.loaded.digests,
            checkpoints=self._series.paths if self._series else (),
        )

    def devices(self) -> tuple[str, int, str | None]:
        """Return what this process sees: kind of device, how many, `CUDA_VISIBLE_DEVICES`."""
        from lsengine.devices import device_of, visible_count

        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        try:
            kind = device_of(self._job.document.device, 0).type
        except EnvironmentUnfit:  # rank 0 may be where there is none
            return self._job.document.device, 0, visible
        return kind, visible_count(kind), visible

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
            found = output.stat()
        except OSError as error:
            raise EnvironmentUnfit(
                f"{output}: the file that this run has written is not there any more "
                f"({error.strerror}): it was removed or moved, or its file system has gone; bring "
                "it back, and the same command goes on"
            ) from None
        if not os.path.samestat(found, self._laid_out):
            raise EnvironmentUnfit(
                f"{output}: is another file than the one this run has written, which has been "
                "replaced or moved; bring that one back, and the same command goes on"
            )
        missing = np.isin(store.read_status(output)[self._concerned], MISSING)
        if missing.any():
            raise EnvironmentUnfit(
                f"{output}: {np.count_nonzero(missing)} cells that were written are not in the "
                "file: its file system has lost writes; the same command does them again"
            )

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
        has_curvature = "curvature" in self._job.document.quantities and output.exists()
        if has_curvature and (unsolved := store.read(output).unconverged):
            log.warning(
                "%s: %d of %d cells did not converge; raise curvature.max_products or "
                "curvature.basis for another surface",
                *(output, unsolved, self._grid.size),
            )
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
        self, facts: WorkerInfo, world: World | None, parallel: bool
    ) -> dict[str, str | int | float]:
        from lsengine.devices import automatic_batch_size

        document, digests = self._job.document, self._identity["digests"]
        batch_size = document.batch_size
        if batch_size == "auto":
            kind = facts.device_kind.partition(" ")[0]
            batch_size = automatic_batch_size(facts.sample_shape, kind)
        precision = facts.precision
        if self._options.extend is not None:  # what was settled for its cells is settled
            old = store.read_attributes(self._options.extend)
            batch_size, precision = int(old["batch_size"]), str(old["precision"])
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
            "precision": precision,
            "batch_size": batch_size,
            "cells_per_pass": self._cells_per_pass,
            "threads": facts.threads,
            "device_kind": facts.device_kind,
        }

    def _layout(
        self, attributes: dict[str, str | int | float], facts: WorkerInfo, tick: Tick
    ) -> Layout:
        from lsengine.engine import prepare
        from lsengine.engine.prepare import (
            curve_directions,
            hessian_directions,
            loading,
            principal_directions,
            warnings,  # import torch
        )
        from lsengine.engine.prepare import directions as directions_of_job

        job, loaded = self._job, self.loaded
        found = hessian_directions.hessian_directions(
            job, loaded, facts, batch_size=int(attributes["batch_size"]), tick=tick
        )
        for axis, pair in found.items():
            attributes[f"{axis}_eigenvalue"] = pair.value
            attributes[f"{axis}_eigenvalue_residual"] = pair.residual
        computed = {axis: pair.vector for axis, pair in found.items()}
        components = principal_directions.principal_directions_of_job(
            job, loaded.model, self._series, tick
        )
        plane = curve_directions.curve_directions(job, loaded.model)
        computed |= {**components.directions, **plane.directions}
        directions = prepare.make_directions(job, loaded.model, computed)
        cosine = directions_of_job.cosine(directions)
        if cosine is not None:
            attributes["direction_cosine"] = cosine
        names = prepare.quantity_names(job, loaded.dataset)
        ranges = curve_directions.ranges(job, plane.layout) if plane.layout else {}
        track = None
        if self._series is not None:
            track = principal_directions.project(
                job, loaded, self._series, directions, components.ratio, tick=tick
            )
            ranges = ranges or principal_directions.ranges(job, track)
        self._grid = prepare.grid(job, ranges)
        warnings.log_all(job, loaded.model, directions, self._grid)
        state = loading.state_dict_layout(loaded.model)
        return Layout(self._grid, names, attributes, directions, track, plane.layout, state)

    def _add_trajectory(self, tick: Tick) -> None:
        """Give a surface that was made without one its group of checkpoints."""
        from lsengine.engine.prepare import principal_directions

        job = self._job
        if self._series is None or store.read_trajectory(job.output) is not None:
            return
        directions = store.read_directions(job.output)
        if not directions:
            raise SurfaceError(f"{job.output}: holds no directions to project checkpoints on")
        track = principal_directions.project(job, self.loaded, self._series, directions, tick=tick)
        store.amend(job.output, {"job": job.resolved()}, track)
        log.info("%s: now has a trajectory", job.output)

    def _adopt(self, old: Path, facts: WorkerInfo) -> None:
        """Take over what an older surface has of this one's cells."""
        compatibility.warn_of_differences(store.read_attributes(old), facts)
        whole, partly = store.adopt(self._job.output, old)
        self._take_stock()
        log.info(
            "%s: took %d cells over from %s%s",
            *(self._job.output, whole or partly, old, "" if whole else ", in part"),
        )

    def _announce(
        self, attributes: dict[str, Any], facts: WorkerInfo, world: World | None, parallel: bool
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
                where = self._grid.place(self._grid.cell(index))
            else:
                assert self._series is not None
                where = self._series.paths[index - self._grid.size].name
            lines.append(f"\n  cell {index} ({where}): {reasons[index].decode(errors='replace')}")
        more = len(self._failed) - len(lines)
        return "".join(lines) + (f"\n  and {more} more" if more else "")


def _share(
    cells: NDArray[np.int64], blocks: list[int] | None, part: int, parts: int
) -> NDArray[np.bool_]:
    """Return which cells are in the ``part``-th of ``parts``: dealt out in the order of visiting.

    Every part is a coarse picture of the whole.  Cells of one block, which share work, stay
    together.
    """
    keys = cells if blocks is None else np.asarray(blocks)[cells]
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    turn = np.argsort(np.argsort(first))
    return np.asarray(turn[inverse] % parts == part - 1)
