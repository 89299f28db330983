"""One run of a job: its cells, what all of them share, the surface file, and how it ends.

Imports torch.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lsengine import cores, devices, store
from lsengine.engine import centre, compatibility, prepare
from lsengine.engine.messages import Assignment, Plan, Twin, VisibleDevices, WorkerInfo
from lsengine.engine.options import Options
from lsengine.engine.outcome import Inventory, Outcome
from lsengine.engine.prepare import (
    checkpoint_series,
    curve_directions,
    hessian_directions,
    loading,
    principal_directions,
    selection,
    settings,
    threads,
    warnings,
)
from lsengine.engine.prepare import directions as directions_of_job
from lsengine.engine.prepare.twin import Stored, make_twin, twin_at_centre
from lsengine.engine.workspace import Workspace
from lsengine.errors import EnvironmentUnfit, SurfaceError, UsageError
from lsengine.external import installation
from lsengine.job import Job
from lsengine.log import NOTICE
from lsengine.objective import batched
from lsengine.ranks import World
from lsengine.store import Layout
from lsengine.surface import drawn, parts
from lsengine.surface.identity import cell_identity, fingerprint

log = logging.getLogger(__name__)
Attributes = dict[str, str | int | float]
_SETTLED = ("precision", "batch_size")  # of a file that is gone on with


class Run:
    """What rank 0 knows about a job and its file.

    It settles what the job leaves open, and lays the file out if there is none.  What an existing
    file, or one that is extended, has settled for its cells stays settled.

    The lock of the job's output is held.  ``tick`` is called now and then while checkpoints are
    read; it may raise to stop.

    Attributes:
        loaded: Model and data.
        inventory: The cells, and which are left; an automatic axis has its range only once the
            file is laid out.
        outcome: How far it is.

    Raises:
        UsageError: If checkpoint, network, data and loss do not go together.
        SurfaceError: If the file is damaged or belongs to another job.
    """

    def __init__(self, job: Job, options: Options, tick: Callable[[], None] = lambda: None) -> None:
        self._job, self._options, self._extended = job, options, options.extend
        torch.set_num_threads(1)  # till it is known how many suit the work
        loaded = prepare.load(job)
        threads.choose(job, loaded, torch.device("cpu"), cores.own_share())
        self.loaded = replace(loaded, metrics=prepare.check(job, loaded))
        self._series = checkpoint_series.find(job, tick)
        self._checkpoints = self._series.paths if self._series else ()
        names = prepare.quantity_names(job, self.loaded.dataset, self.loaded.metrics)
        centre.refuse_unknown(job, names)
        digest = self._series.digest if self._series else None
        self._identity = prepare.identity(job, self.loaded, digest)
        self._grid = prepare.grid(job)
        self._exists = job.output.exists()
        if self._exists:
            compatibility.refuse_damaged(job.output, retries=options.retry_failed)
            compatibility.refuse_other_job(job, self._identity, self._series)
            self._grid = store.read_grid(job.output)
            if job.document.expect:
                settled = str(store.read_attributes(job.output, _SETTLED)["precision"])
                centre.compare(job, centre.stored_at_centre(job.output), settled)
        if self._extended is not None:
            compatibility.refuse_other_cells(self._extended, job.document.name, self._identity)
            if self._exists:
                log.warning("%s is there already; --extend has no effect", job.output)
        self._cells_per_pass = self._group_size()
        self._take_stock()

    def workspace(self, assignment: Assignment, tick: Callable[[], None], rank: int) -> Workspace:
        """Return what rank 0 evaluates with, if it does; made once."""
        return Workspace(assignment, tick, rank, self.loaded)

    def visible_devices(self) -> VisibleDevices:
        """Return the devices of the job's kind that this process sees."""
        wanted, visible = self._job.document.device, os.environ.get("CUDA_VISIBLE_DEVICES")
        if wanted in ("auto", "cuda") and (listed := devices.instances(visible)):
            return VisibleDevices("cuda", len(listed), visible)  # torch would fix on the first one
        try:
            kind = devices.device_of(wanted, 0).type
        except EnvironmentUnfit:  # rank 0 may be where there is none
            return VisibleDevices(wanted, 0, visible)
        return VisibleDevices(kind, devices.visible_count(kind), visible)

    def settle(
        self, info: WorkerInfo, world: World, *, takes_part: bool, tick: Callable[[], None]
    ) -> Plan:
        """Fix what all cells share, and lay the file out or complete it.

        The worker of ``info`` settles what the job leaves open.  ``takes_part`` is whether rank 0
        evaluates.  ``tick`` is called now and then
        while directions are computed; it may raise to stop.

        Raises:
            EnvironmentUnfit: If the file cannot be made, or parallel writing is asked for and
                not possible.
            UsageError: If a direction cannot be made.
        """
        if info.weights:
            log.log(NOTICE, "%s", info.weights)
        wants_parallel = self._wants_parallel(world)
        output = self._job.output
        settle = self._take_up if self._exists else self._lay_out
        attributes, twin, refusal = settle(info, world, wants_parallel, tick)
        if refusal and self._job.document.writing == "parallel":
            raise EnvironmentUnfit(
                f"writing: parallel is refused by this file system or MPI: {refusal}; use gather"
            )
        if refusal:
            log.warning("parallel writing is refused (%s); gathering instead", refusal)
        parallel = wants_parallel and not refusal
        log.info(
            f"{output}: {_workers(world.size, takes_part)} "
            f"writing={'parallel' if parallel else 'gather'} device={info.device_kind} "
            f"precision={attributes['precision']} batch_size={attributes['batch_size']} "
            f"threads={info.threads} ({info.threads_why}){self._idle_cores(info, world)}"
        )
        if (manner := info.forward.removeprefix("eager, ")) != info.forward:
            log.info("the network's own code runs with %s", manner)
        said = parts.said(store.read_parts(output), parts.sizes(attributes))
        for axes, words in parts.together(said).items():
            log.info("%s: %s", axes, words)
        if "direction_cosine" in attributes:
            log.info("cosine of the two directions: %.4f", attributes["direction_cosine"])
        self._take_stock()  # of a grid with its ranges, and of what has been taken over
        self.outcome.begin(self._options.progress)
        return Plan(
            path=output,
            parallel=parallel,
            precision=str(attributes["precision"]),
            batch_size=int(attributes["batch_size"]),
            cells_per_pass=self._cells_per_pass,
            digests=self.loaded.digests,
            code=self._identity.get("code", {}),
            checkpoints=self._checkpoints,
            metrics=self.loaded.metrics,
            twin=twin,
        )

    def discard_unused(self) -> None:
        """Remove a file that this run has laid out if it has no cell: its job is corrected now."""
        output = self._job.output
        if not self._exists and output.exists() and not store.read_status(output).any():
            output.unlink()

    def _take_up(
        self, info: WorkerInfo, world: World, parallel: bool, tick: Callable[[], None]
    ) -> tuple[Mapping[str, Any], Twin, str | None]:
        """Go on with the file; return its attributes and why it refuses parallel writes."""
        output = self._job.output
        self._add_trajectory(tick)
        attributes = store.read_attributes(output, _SETTLED)
        compatibility.warn_of_differences(attributes, info)
        job, dataset, metrics = self._job, self.loaded.dataset, self.loaded.metrics
        compatibility.refuse_other_metrics(output, attributes, metrics)
        compatibility.refuse_other_datasets(
            output,
            prepare.quantity_names(job, dataset, metrics),
            prepare.trajectory_quantity_names(job, dataset, metrics),
        )
        twin = self._make_twin(self._directions(), tick)
        compatibility.refuse_other_twin(output, attributes, twin)
        refusal = store.refuses_parallel(output, world.comm_self) if parallel else None
        return attributes, twin, refusal

    def _lay_out(
        self, info: WorkerInfo, world: World, parallel: bool, tick: Callable[[], None]
    ) -> tuple[Mapping[str, Any], Twin, str | None]:
        """Make the file; return its attributes and why it refuses parallel writes."""
        attributes = self._attributes(info, world, parallel)
        layout = self._layout(attributes, info, tick)
        twin = self._make_twin(layout.directions, tick)
        if self._extended is not None:  # whose grid has another point away from the centre
            earlier = store.read_attributes(self._extended)
            compatibility.refuse_other_twin(self._extended, earlier, twin, points=1)
        attributes["twin"] = json.dumps(twin.means())
        if twin.of_split:
            attributes["loss_of"] = "split"
        if not self._job.stores_directions:
            digests = drawn.digests(layout.directions, repeats="repeat" in layout.grid.axes)
            layout = replace(layout, directions={}, drawn=drawn.text(digests))
        comm = world.comm_self if parallel else None
        refusal = store.create(self._job.output, layout, comm=comm)
        self._adopt(info)
        return attributes, twin, refusal

    def _make_twin(self, directions: Stored, tick: Callable[[], None]) -> Twin:
        job, loaded, grid = self._job, self.loaded, self._grid
        return make_twin(job, loaded, grid, directions, checkpoints=self._checkpoints, tick=tick)

    def _directions(self) -> Stored:
        return directions_of_job.directions_of(self._job, self.loaded.model, self._job.output)

    def _take_stock(self) -> None:
        self.inventory = Inventory(
            self._job, self._options, self._grid, self._checkpoints, self._cells_per_pass
        )
        self.outcome = Outcome(self._job, self.inventory)

    def _group_size(self) -> int:
        """Return how many cells are evaluated at once: as a file has it, or by arithmetic."""
        document, dataset = self._job.document, self.loaded.dataset
        is_plain = document.precision in ("float32", "float64") and document.loss in batched.LOSSES
        is_plain = is_plain and not dataset.lacks_labels and document.objective is None
        is_plain = is_plain and all(isinstance(s.x, Tensor) for s in dataset.splits.values())
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
        batch_size = settings.batch_size(
            self._job, info.sample_shape, info.device_kind, info.memory
        )
        precision = info.precision
        if self._extended is not None:
            extended = store.read_attributes(self._extended, _SETTLED)
            batch_size, precision = int(extended["batch_size"]), str(extended["precision"])
        return {
            "lsengine_version": installation.version(),
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
            "cells_per_pass": self._cells_per_pass,
            "threads": info.threads,
            "device_kind": info.device_kind,
            "forward": info.forward,
            **({"metrics": json.dumps(self.loaded.metrics)} if self.loaded.metrics else {}),
            **({"products_by": info.products_by} if info.products_by else {}),
        }

    def _layout(self, attributes: Attributes, info: WorkerInfo, tick: Callable[[], None]) -> Layout:
        job, loaded = self._job, self.loaded
        size = int(attributes["batch_size"])
        try:
            computed, eigenvalues = hessian_directions.hessian_directions(
                job, loaded, info, batch_size=size, tick=tick, progress=self._options.progress
            )
        except UsageError:  # perhaps for a reason that is none of curvature
            twin_at_centre(job, loaded, tick)
            raise
        attributes |= eigenvalues
        series = self._series
        principal, ratio = principal_directions.principal_directions(
            job, loaded.model, series, tick
        )
        in_plane, curve = curve_directions.curve_directions(job, loaded.model)
        directions = prepare.make_directions(job, loaded.model, computed | principal | in_plane)
        if self._extended is not None:
            repeats = job.document.repeats > 1
            compatibility.refuse_other_directions(self._extended, directions, repeats=repeats)
        sizes = self._measure(directions, attributes)
        ranges = curve_directions.ranges(job, curve) if curve else {}
        trajectory = None
        if series is not None:
            trajectory = principal_directions.project(
                job, loaded, series, directions, ratio, tick=tick
            )
            ranges = ranges or principal_directions.ranges(job, trajectory)
        self._grid = prepare.grid(job, ranges)
        warnings.log_all(job, loaded, directions, self._grid, sizes)
        self._warn_of_trajectory(directions, tick)
        return Layout(
            grid=self._grid,
            quantities=prepare.quantity_names(job, loaded.dataset, loaded.metrics),
            attributes=attributes,
            directions=directions,
            trajectory=trajectory,
            curve=curve,
            state_dict_layout=loading.state_dict_layout(loaded.model),
            roles=parts.roles_text(selection.roles(loaded.model)),
        )

    def _measure(self, directions: Stored, attributes: Attributes) -> dict[str, parts.Size]:
        """Return how long directions are; ``attributes`` get it, and the cosine between them."""
        model = self.loaded.model
        weights = [selection.weights_among(d, model) for d in directions.values()]
        if (cosine := directions_of_job.cosine(weights)) is not None:
            attributes["direction_cosine"] = cosine
        state, roles = json.loads(loading.state_dict_layout(model)), selection.roles(model)
        sizes = {axis: parts.size(d, state, roles) for axis, d in directions.items()}
        attributes["direction_sizes"] = parts.sizes_text(sizes)
        return sizes

    def _add_trajectory(self, tick: Callable[[], None]) -> None:
        """Give a surface that was made without one its group of checkpoints."""
        output = self._job.output
        if self._series is None or store.read_trajectory(output) is not None:
            return
        directions = self._directions()
        if not directions:
            raise SurfaceError(f"{output}: holds no directions to project checkpoints on")
        trajectory = principal_directions.project(
            self._job, self.loaded, self._series, directions, tick=tick
        )
        store.amend(output, {"job": self._job.resolved()}, trajectory)
        log.info("%s: now has a trajectory", output)
        self._warn_of_trajectory(directions, tick)

    def _warn_of_trajectory(self, directions: Stored, tick: Callable[[], None]) -> None:
        if self._series is None:
            return
        model = self.loaded.model
        for warning in warnings.of_trajectory(self._job, model, self._series, directions, tick):
            log.warning(warning)

    def _idle_cores(self, info: WorkerInfo, world: World) -> str:
        """Return how the cores of this machine that a process alone leaves idle would be used."""
        several = cores.count() // info.threads
        options = self._options
        is_part = options.shard or options.cell_limit or options.trajectory_only
        is_eval = options.end_if_hung and not is_part and not self._job.document.curve
        if world.size > 1 or not is_eval or several < 2 or not info.device_kind.startswith("cpu"):
            return ""
        return f"; --workers {several} would use {several * info.threads} cores"

    def _adopt(self, info: WorkerInfo) -> None:
        """Take over what an extended surface has of this one's cells."""
        if self._extended is None:
            return
        compatibility.warn_of_differences(store.read_attributes(self._extended), info)
        complete, partly = store.adopt(self._job.output, self._extended)
        cells = f"{complete or partly} cells over from {self._extended}"
        log.info("%s: took %s%s", self._job.output, cells, "" if complete else ", in part")


def _workers(ranks: int, takes_part: bool) -> str:
    """Return how many ranks evaluate, and what rank 0 does."""
    if ranks == 1:
        return "workers=1"
    role = "is one of them" if takes_part else "coordinates"
    return f"workers={ranks - 1 + takes_part} (rank 0 {role})"
