"""The evaluator: cells of one job on one device, the same with and without other ranks."""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from lsengine import objective as objectives
from lsengine.curvature import Way
from lsengine.curvature.cells import NAMES
from lsengine.engine import centre, prepare
from lsengine.engine.messages import Plan, Report
from lsengine.engine.prepare import precision
from lsengine.engine.prepare.directions import cell_steps, directions_of
from lsengine.engine.prepare.loading import criterion_of, failures_named
from lsengine.engine.prepare.settings import evaluation_settings
from lsengine.engine.twin_check import compare_with_twin
from lsengine.errors import LsengineError, Stopped, UsageError
from lsengine.job import Job
from lsengine.log import NOTICE
from lsengine.models import checkpoint
from lsengine.objective.criterion import OwnObjective
from lsengine.store import CellResults, read, read_grid, read_trajectory
from lsengine.surface.grid import Cell

log = logging.getLogger(__name__)
_REPORT_S = 0.25  # finished cells wait no longer than this, and the cell in hand, to be written


class Evaluator:
    """Evaluates cells of one surface on one device.

    Puts everything on the device, with the directions that the file holds or that are drawn again,
    and checks the centre if the plan says so.

    Attributes:
        first_report: What there is to tell before the first cell: the error of a fast precision.

    The loaded model is taken over.  ``tick`` is called before every mini-batch; it raises `Stopped`
    to abandon the cell.  The rank is recorded with the cells.  ``products_by`` is the way of
    products with Hessians, if it is known.  ``peers`` are the workers of this host.

    Raises:
        UsageError: If checkpoint or data are not those that the file was laid out for, or losses
            are not those of the twin.
        SurfaceError: If directions are not drawn again as they were.
    """

    def __init__(
        self,
        job: Job,
        loaded: prepare.Loaded,
        plan: Plan,
        *,
        device: torch.device,
        tick: Callable[[], None],
        rank: int = 0,
        products_by: Way | None = None,
        peers: int = 1,
    ) -> None:
        self._job, self._dataset, self._rank = job, loaded.dataset, rank
        self._products_by, self._peers = products_by, peers
        _refuse_other_files(loaded, prepare.code(job, loaded.model), plan)
        self._grid = read_grid(plan.path)  # an automatic axis has its range there
        self._coarse = self._grid.warm_start_cells()
        self._batch_size, self._cells_per_pass = plan.batch_size, plan.cells_per_pass
        self._group_of = self._grid.pass_groups(plan.cells_per_pass)
        self._of_group: dict[int, objectives.Metrics] = {}  # evaluated, and not asked for yet
        self._quantities = prepare.quantity_names(self._job, self._dataset, plan.metrics)
        others = [name for name in self._quantities if name not in NAMES]
        has_both = bool(others) and len(others) < len(self._quantities)
        # What may be known of a cell while the rest is not: all losses, or all of curvature.
        self._quantity_families = [others, NAMES] if has_both else []
        self._stored = read(plan.path).quantities if has_both else {}
        self._checkpoints = plan.checkpoints
        self._plane_cells = self._load_trajectory(plan) if plan.checkpoints else []
        self._objective = self._make_objective(loaded.model, plan, device, tick)
        self._has_warned = False
        self.first_report: Report | None = None
        compare_with_twin(
            job,
            self._objective,
            plan.twin,
            loaded=loaded,
            precision=plan.precision,
            cells_per_pass=plan.cells_per_pass,
            rank=rank,
        )
        if plan.check or job.document.expect:
            with failures_named(job, "at the centre"):
                self._check(plan, loaded.model)

    def _make_objective(
        self, model: nn.Module, plan: Plan, device: torch.device, tick: Callable[[], None]
    ) -> objectives.Objective:
        along, steps = cell_steps(self._job, directions_of(self._job, model, plan.path))
        settings = evaluation_settings(
            self._job, device, precision=plan.precision, batch_size=plan.batch_size
        )
        settings = replace(settings, products_by=self._products_by, peers=self._peers)
        settings = replace(settings, at_once=plan.twin.of_split)
        criterion = criterion_of(self._job, self._dataset)
        if isinstance(criterion, OwnObjective):
            criterion.require(plan.metrics)
        return objectives.Objective(
            model,
            self._dataset,
            criterion,
            {str(k): direction for k, direction in enumerate(along)},
            settings,
            repeats="repeat" in self._grid.axes,
            steps=steps,
            tick=tick,
        )

    def _check(self, plan: Plan, model: nn.Module) -> None:
        """Check the centre, and if the plan says so tell of it and of a fast precision's error."""
        if plan.check:
            self._tell_sizes()
        expects = self._job.document.expect
        try:
            metrics = self._metrics_of_centre()
            centre.compare(self._job, metrics, plan.precision)
            if not plan.check:
                return
            stored = centre.stored_at_centre(plan.path)
            centre.refuse_other_centre(plan.path, metrics, stored, plan.precision)
            self._tell_centre(plan, metrics, model)
            if plan.precision not in ("float32", "float64"):
                rows = precision.compared(self._objective, self._grid)
                self.first_report = Report(CellResults(precision_error=rows), 0.0)
        except LsengineError:
            raise
        except Exception as error:  # of the user's code; and so will the cells there
            if expects:
                raise
            log.warning("the centre cannot be evaluated: %s: %s", type(error).__name__, error)

    def _tell_sizes(self) -> None:
        if krylov_bytes := self._objective.krylov_bytes:
            basis = self._job.document.curvature.basis
            log.log(NOTICE, "curvature: basis=%d vectors=%.2g GiB", basis, krylov_bytes / 2**30)
        log.log(NOTICE, "data: %s", self._objective.inputs)

    def run(self, cells: Sequence[int], limit_s: float = _REPORT_S) -> Report:
        """Evaluate cells, flat indices, until the time is up, at least one.

        An exception in a cell marks that cell failed; a stop ends the run.
        """
        results = CellResults(values={name: [] for name in self._quantities}, worker=self._rank)
        begin = time.monotonic()
        interrupted = None
        for index, following in itertools.zip_longest(cells, cells[1:]):
            start = time.monotonic()
            try:
                metrics, shared_s = self._metrics(index, following)
            except Stopped as stop:
                interrupted = str(stop)
                break
            except LsengineError:
                raise
            except Exception as error:
                metrics, shared_s = {}, None
                results.failures[index] = " ".join(f"{type(error).__name__}: {error}".split())
                log.warning("cell=%d failed: %s", index, results.failures[index])
            results.cells.append(index)
            for name, column in results.values.items():
                column.append(metrics.get(name, math.nan))
            used = self._objective.batch_size
            results.batch.append(used if used < self._batch_size else 0)
            results.wall_s.append(shared_s or time.monotonic() - start)
            results.finished.append(time.time())
            self._warn_if_not_finite(index, metrics)
            if time.monotonic() - begin > limit_s:
                break
        return Report(results, time.monotonic() - begin, interrupted)

    def _load_trajectory(self, plan: Plan) -> list[Cell]:
        """Take in the quantities of checkpoints, and return the cells of the plane under them."""
        trajectory = read_trajectory(plan.path)
        assert trajectory is not None
        alpha = trajectory.columns["alpha"]
        beta = trajectory.columns.get("beta", np.zeros(len(alpha)))
        names = prepare.trajectory_quantity_names(self._job, self._dataset, plan.metrics)
        self._quantities += [name for name in names if name not in self._quantities]
        return [Cell(a, b) for a, b in zip(alpha.tolist(), beta.tolist(), strict=True)]

    def _metrics(
        self, index: int, following: int | None
    ) -> tuple[objectives.Metrics, float | None]:
        """Return a cell's metrics, and its share of the seconds if it was evaluated with others."""
        if index >= self._grid.size:
            return self._metrics_of_checkpoint(index), None
        if self._cells_per_pass > 1:
            return self._metrics_of_group(index)
        cell, coarse = self._grid.cell(index), self._grid.cell(self._coarse[index])
        then = None
        if following is not None and following < self._grid.size:
            then = self._grid.cell(following)
        return self._objective.evaluate(cell, coarse, self._known(index), then), None

    def _metrics_of_group(self, index: int) -> tuple[objectives.Metrics, float]:
        """Evaluate a cell's whole group, whatever of it is missing; the others wait their turn."""
        start = time.monotonic()
        if index not in self._of_group:
            members = np.flatnonzero(self._group_of == self._group_of[index]).tolist()
            filled = members + members[-1:] * (self._cells_per_pass - len(members))
            # Always as many, for the same bits in a grid of another size.
            metrics = self._objective.losses_of_group([self._grid.cell(m) for m in filled])
            self._of_group = dict(zip(members, metrics, strict=False))
            self._share_s = (time.monotonic() - start) / len(members)  # of one cell
        return self._of_group.pop(index), self._share_s

    def _metrics_of_checkpoint(self, index: int) -> objectives.Metrics:
        """Return the metrics of a checkpoint, and those of the plane under it."""
        number = index - self._grid.size
        plane = self._objective.losses(self._plane_cells[number])
        key = "trajectory.checkpoints"
        state = checkpoint.load(self._checkpoints[number], key=key, spec=self._job.document.model)
        metrics = self._objective.losses_of(lambda model: checkpoint.fit(model, state, key=key))
        return metrics | {f"plane_{name}": value for name, value in plane.items()}

    def _known(self, index: int) -> objectives.Metrics:
        """Return what the file had of a missing cell at the start: losses, or curvature.

        They are there when the surface extends another one by a quantity.  A value that is not
        finite counts as none, and is computed again.
        """
        known: objectives.Metrics = {}
        for names in self._quantity_families:
            values = {name: float(self._stored[name].flat[index]) for name in names}
            if all(math.isfinite(value) for value in values.values()):
                known |= values
        return known

    def _metrics_of_centre(self) -> objectives.Metrics:
        """Return the losses of the checkpoint; its curvature only where the job expects some."""
        cell = Cell(0.0)
        if self._cells_per_pass > 1:
            return self._objective.losses_of_group([cell] * self._cells_per_pass)[0]
        if set(NAMES) & self._job.document.expect.keys():
            return self._objective.evaluate(cell)
        return self._objective.losses(cell)

    def _tell_centre(self, plan: Plan, metrics: objectives.Metrics, model: nn.Module) -> None:
        """Log the losses of the checkpoint, and that they are checked."""
        losses = {n: v for n, v in metrics.items() if not n.endswith("_se") and n not in NAMES}
        shown = " ".join(f"{n}={v:.6g}" for n, v in losses.items())
        count, where = plan.twin.count, len(plan.twin.probes)
        if any(math.isnan(v) for n, v in losses.items() if n.endswith("_loss")):
            why = centre.why_undefined(self._objective, model, self._dataset, plan.precision)
            log.log(NOTICE, "centre check undefined: %s: %s", shown, why)
        else:
            log.log(NOTICE, "centre check passed: %s", shown)
        log.info("%d samples agree with a plain evaluation of them, at %d points", count, where)

    def _warn_if_not_finite(self, index: int, metrics: objectives.Metrics) -> None:
        bad = {n: v for n, v in metrics.items() if n.endswith("_loss") and not math.isfinite(v)}
        if bad and not self._has_warned:
            grid, (name, value) = self._grid, next(iter(bad.items()))
            is_in_grid = index < grid.size
            cell = grid.cell(index) if is_in_grid else self._plane_cells[index - grid.size]
            log.warning(
                f"{name} is {value} at {grid.describe(cell)}; stored as it is, not retried, later "
                "ones are not reported"
            )
            self._has_warned = True


def _refuse_other_files(loaded: prepare.Loaded, code: Mapping[str, str], plan: Plan) -> None:
    """Compare what this process has read with what the surface is of; hosts may differ."""
    read = {**plan.code, **plan.digests}
    for name, digest in {**loaded.digests, **code}.items():
        if (expected := read.get(name, digest)) != digest:
            raise UsageError(
                f"{name}: its content differs from what rank 0 has read (SHA-256 "
                f"{digest[:12]}..., there {expected[:12]}...); all hosts need the same files"
            )
