"""What is decided before the first cell: the surface file, and what all its cells share."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np

from lsengine import __version__, store
from lsengine.engine import compatibility, prepare
from lsengine.engine.messages import Plan, WorkerInfo
from lsengine.engine.options import Options
from lsengine.engine.prepare import (
    checkpoint_series,
    curve_directions,
    hessian_directions,
    loading,
    principal_directions,
    settings,
    warnings,
)
from lsengine.engine.prepare import directions as directions_of_job
from lsengine.errors import EnvironmentUnfit, SurfaceError
from lsengine.job import Job
from lsengine.objective import batched
from lsengine.ranks import World
from lsengine.store import Layout
from lsengine.surface.identity import cell_identity, fingerprint

log = logging.getLogger(__name__)
Attributes = dict[str, str | int | float]


class Settling:
    """Settles what a job leaves open, and lays the surface file out if there is none.

    What an existing file, or one that is extended, has settled for its cells stays settled.

    Args:
        job: Valid for ``eval``; its output's lock is held.
        options: See `Options`.
        tick: Called now and then while checkpoints are read; may raise to stop.

    Attributes:
        loaded: Model and data.
        grid: Of the surface; an automatic axis has its range only once the file is laid out.
        checkpoints: Of the trajectory, if there is one.
        cells_per_pass: How many cells are evaluated at once.

    Raises:
        UsageError: If checkpoint, network, data and loss do not go together.
        SurfaceError: If the file is damaged or belongs to another job.
    """

    def __init__(self, job: Job, options: Options, tick: Callable[[], None]) -> None:
        self._job, self._extended = job, options.extend
        self.loaded = prepare.load(job)
        prepare.check(job, self.loaded)
        self._series = checkpoint_series.find(job, tick)
        self.checkpoints = self._series.paths if self._series else ()
        digest = self._series.digest if self._series else None
        self._identity = prepare.identity(job, self.loaded, digest)
        self.grid = prepare.grid(job)
        self._exists = job.output.exists()
        if self._exists:
            compatibility.refuse_other_job(job, self._identity, self._series)
            self.grid = store.read_grid(job.output)
        if self._extended is not None:
            compatibility.refuse_other_cells(self._extended, self._identity)
            if self._exists:
                log.warning("%s is there already; --extend has no effect", job.output)
        self.cells_per_pass = self._group_size()

    def settle(self, info: WorkerInfo, world: World, tick: Callable[[], None]) -> Plan:
        """Fix what all cells share, and lay the file out or complete it.

        Args:
            info: Of the worker that settles what the job leaves open.
            world: The ranks.
            tick: Called now and then while directions are computed; may raise to stop.

        Raises:
            EnvironmentUnfit: If the file cannot be made, or parallel writing is asked for and
                not possible.
            UsageError: If a direction cannot be made.
        """
        wants_parallel = self._wants_parallel(world)
        comm = world.comm_self if wants_parallel else None
        output = self._job.output
        if self._exists:
            self._add_trajectory(tick)
            attributes = store.read_attributes(output)
            compatibility.warn_of_differences(attributes, info)
            refusal = store.refuses_parallel(output, comm) if wants_parallel else None
        else:
            attributes = self._attributes(info, world, wants_parallel)
            refusal = store.create(output, self._layout(attributes, info, tick), comm=comm)
            self._adopt(info)
        if refusal and self._job.document.writing == "parallel":
            raise EnvironmentUnfit(
                f"writing: parallel is refused by this file system or MPI: {refusal}; use gather"
            )
        if refusal:
            log.warning("parallel writing is refused (%s); gathering instead", refusal)
        parallel = wants_parallel and not refusal
        log.info(
            f"{output}: workers={max(1, world.size - 1)} "
            f"writing={'parallel' if parallel else 'gather'} device={info.device_kind} "
            f"precision={attributes['precision']} batch_size={attributes['batch_size']} "
            f"threads={info.threads}"
        )
        if "direction_cosine" in attributes:
            log.info("cosine of the two directions: %.4f", attributes["direction_cosine"])
        return Plan(
            path=output,
            parallel=parallel,
            precision=str(attributes["precision"]),
            batch_size=int(attributes["batch_size"]),
            cells_per_pass=self.cells_per_pass,
            digests=self.loaded.digests,
            checkpoints=self.checkpoints,
        )

    def _group_size(self) -> int:
        """Return how many cells are evaluated at once: as a file has it, or by arithmetic."""
        document, dataset = self._job.document, self.loaded.dataset
        is_plain = document.precision in ("float32", "float64") and ":" not in document.loss
        is_fixed = document.batch_norm.policy != "recalibrated"
        # Checkpoints go one by one, and so do the cells that they are compared with.
        is_alone = "curvature" in document.quantities or self._series is not None
        if document.cells_per_pass == 1 or is_alone or not (is_plain and is_fixed):
            return 1
        settled = self._job.output if self._exists else self._extended
        if settled is not None:
            return int(store.read_attributes(settled).get("cells_per_pass", 1))
        return batched.cells_per_pass(self.loaded.model, settings.sample_shape(dataset))

    def _wants_parallel(self, world: World) -> bool:
        writing = self._job.document.writing
        if writing == "parallel" and not store.has_mpi():
            raise EnvironmentUnfit(
                "writing: parallel needs an h5py built with MPI; this one is serial; use auto or "
                "gather, or set up the environment with parallel HDF5"
            )
        return writing != "gather" and store.has_mpi() and world.size > 1

    def _attributes(self, info: WorkerInfo, world: World, parallel: bool) -> Attributes:
        document, digests = self._job.document, self._identity["digests"]
        batch_size = settings.batch_size(self._job, info.sample_shape, info.device_kind)
        precision = info.precision
        if self._extended is not None:
            extended = store.read_attributes(self._extended)
            batch_size, precision = int(extended["batch_size"]), str(extended["precision"])
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
            "torch_version": info.torch_version,
            "numpy_version": np.__version__,  # which draws random directions
            "mpi_library": world.library,
            "writing": "parallel" if parallel else "gather",
            "precision": precision,
            "batch_size": batch_size,
            "cells_per_pass": self.cells_per_pass,
            "threads": info.threads,
            "device_kind": info.device_kind,
            "forward": info.forward,
        }

    def _layout(self, attributes: Attributes, info: WorkerInfo, tick: Callable[[], None]) -> Layout:
        job, loaded = self._job, self.loaded
        hessian = hessian_directions.hessian_directions(
            job, loaded, info, batch_size=int(attributes["batch_size"]), tick=tick
        )
        attributes |= hessian.attributes
        principal = principal_directions.principal_directions(job, loaded.model, self._series, tick)
        plane = curve_directions.curve_directions(job, loaded.model)
        computed = {**hessian.directions, **principal.directions, **plane.directions}
        directions = prepare.make_directions(job, loaded.model, computed)
        cosine = directions_of_job.cosine(directions)
        if cosine is not None:
            attributes["direction_cosine"] = cosine
        ranges = curve_directions.ranges(job, plane.layout) if plane.layout else {}
        trajectory = None
        if self._series is not None:
            trajectory = principal_directions.project(
                job, loaded, self._series, directions, principal.ratio, tick=tick
            )
            ranges = ranges or principal_directions.ranges(job, trajectory)
        self.grid = prepare.grid(job, ranges)
        warnings.log_all(job, loaded.model, directions, self.grid)
        return Layout(
            grid=self.grid,
            quantities=prepare.quantity_names(job, loaded.dataset),
            attributes=attributes,
            directions=directions,
            trajectory=trajectory,
            curve=plane.layout,
            state_dict_layout=loading.state_dict_layout(loaded.model),
        )

    def _add_trajectory(self, tick: Callable[[], None]) -> None:
        """Give a surface that was made without one its group of checkpoints."""
        output = self._job.output
        if self._series is None or store.read_trajectory(output) is not None:
            return
        directions = store.read_directions(output)
        if not directions:
            raise SurfaceError(f"{output}: holds no directions to project checkpoints on")
        trajectory = principal_directions.project(
            self._job, self.loaded, self._series, directions, tick=tick
        )
        store.amend(output, {"job": self._job.resolved()}, trajectory)
        log.info("%s: now has a trajectory", output)

    def _adopt(self, info: WorkerInfo) -> None:
        """Take over what an extended surface has of this one's cells."""
        if self._extended is None:
            return
        compatibility.warn_of_differences(store.read_attributes(self._extended), info)
        complete, partly = store.adopt(self._job.output, self._extended)
        log.info(
            "%s: took %d cells over from %s%s",
            self._job.output,
            complete or partly,
            self._extended,
            "" if complete else ", in part",
        )
