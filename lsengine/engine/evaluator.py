"""The evaluator: cells of one job on one device, the same with and without other ranks."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from lsengine import devices
from lsengine import objective as objectives
from lsengine.curvature import LanczosOptions
from lsengine.curvature.cells import NAMES
from lsengine.engine import prepare
from lsengine.engine.messages import Assignment, Plan, Report, WorkerInfo
from lsengine.engine.prepare import precision
from lsengine.errors import LsengineError, Stopped, UsageError
from lsengine.geometry import curve
from lsengine.job import Job
from lsengine.job.schema import CurveDirection, HessianDirection
from lsengine.log import NOTICE
from lsengine.models import checkpoint
from lsengine.objective.losses import loss_function
from lsengine.store import CellResults, read, read_directions, read_grid, read_trajectory
from lsengine.surface.grid import Cell

log = logging.getLogger(__name__)
_REPORT_S = 0.25  # finished cells wait no longer than this, and the cell in hand, to be written


class Evaluator:
    """Evaluates cells of one job on one device; the same with and without other ranks.

    Args:
        assignment: Job, place on the host, threads.
        tick: Called before every mini-batch; raises `Stopped` to abandon the cell.
        rank: Recorded with the cells.
        loaded: Model and data, if they have been loaded already; taken over.
    """

    def __init__(
        self,
        assignment: Assignment,
        *,
        tick: Callable[[], None],
        rank: int = 0,
        loaded: prepare.Loaded | None = None,
    ) -> None:
        self._job, self._tick, self._rank = assignment.job, tick, rank
        document = self._job.document
        threads = assignment.threads if document.threads == "auto" else document.threads
        torch.set_num_threads(threads)
        self._device = devices.device_of(document.device, assignment.slot)
        if self._device.type == "cpu":
            devices.tune_malloc()
        devices.use_deterministic_kernels(_is_of_hessians(self._job))
        self._loaded = loaded or prepare.load(self._job)
        self.grid = prepare.grid(self._job)
        self._coarse = self.grid.warm_start_cells()
        self._quantities = prepare.quantity_names(self._job, self._loaded.dataset)
        self._checkpoints: tuple[Path, ...] = ()
        self._under: list[Cell] = []  # where the checkpoints lie
        self._warned = False
        self._precision: str = document.precision
        self._precision_error: tuple[tuple[float, float, float, float], ...] = ()
        if document.precision == "auto" and not self._job.output.exists():
            self._precision = precision.settle(self._job, self._loaded, self._device, tick)
        precision.check(self._precision, self._device)

    def facts(self, host: str) -> WorkerInfo:
        """Return where the values come from."""
        kind, identity = self._device.type, ""
        if kind == "cuda":
            properties = torch.cuda.get_device_properties(self._device)
            kind, identity = f"cuda {properties.name}", str(getattr(properties, "uuid", ""))
        dataset = self._loaded.dataset
        shape = next(iter(dataset.splits.values())).x.shape[1:]
        return WorkerInfo(
            *(host, kind, identity, torch.get_num_threads(), str(torch.__version__)),
            *(tuple(shape), self._precision),
        )

    def start(self, plan: Plan) -> None:
        """Put everything on the device, with the directions that the file holds.

        Raises:
            UsageError: If checkpoint or data are not those that the file was laid out for.
            UsageError: If the network's output is a matter of chance.
            RuntimeError: If the centre cell is not the checkpoint's own loss: a bug.
        """
        document, dataset = self._job.document, self._loaded.dataset
        self._refuse_other_files(plan)
        batch_norm = document.batch_norm
        self.grid = read_grid(plan.path)  # an automatic axis has its range there
        self._batch_size = plan.batch_size
        self._begin_groups(plan.cells_per_pass)
        others = [name for name in self._quantities if name not in NAMES]
        both = others and len(others) < len(self._quantities)
        self._kinds = [others, NAMES] if both else []  # else there is nothing to be known apart
        self._held = read(plan.path).quantities if both else {}
        if plan.checkpoints:
            self._take_up(plan)
        settings = objectives.EvaluationSettings(
            device=self._device,
            precision=plan.precision,
            batch_size=plan.batch_size,
            batch_norm=batch_norm.policy,
            recalibration=(batch_norm.samples, batch_norm.batch_size),
            seed=document.seed,
            channels_last=not document.model.is_own,
            curvature=self._lanczos(),
            curvature_of_moved=document.curvature.parameters == "moved",
        )
        loss = loss_function(document.loss, job_folder=self._job.source.parent)
        directions, steps = self._directions(plan)
        with_reference = plan.check and batch_norm.policy != "recalibrated"
        self._objective = objectives.Objective(
            self._loaded.model,
            dataset,
            loss,
            directions,
            settings,
            repeats="repeat" in self.grid.axes,
            steps=steps,
            tick=self._tick,
            with_reference=with_reference,
        )
        if plan.check and (held := self._objective.krylov_bytes):
            basis = document.curvature.basis
            log.log(NOTICE, "curvature: basis=%d vectors=%.2g GiB", basis, held / 2**30)
        if with_reference:
            self._check_centre(settings)
        if plan.check and not settings.is_exact:
            self._precision_error = precision.compared(self._objective, self.grid)

    def run(self, cells: Sequence[int], limit_s: float = _REPORT_S) -> Report:
        """Evaluate cells until the time is up, at least one.

        An exception in a cell marks that cell failed; a stop ends the run.

        Args:
            cells: Flat indices.
            limit_s: Seconds after which no further cell is begun.
        """
        results = CellResults(values={name: [] for name in self._quantities}, worker=self._rank)
        results.precision_error, self._precision_error = self._precision_error, ()  # told once
        begin = time.monotonic()
        interrupted = None
        for index in cells:
            start = time.monotonic()
            try:
                metrics, shared_s = self._metrics(index)
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

    def _refuse_other_files(self, plan: Plan) -> None:
        """Compare what this process has read with what the surface is of; hosts may differ."""
        for name, digest in self._loaded.digests.items():
            if (there := plan.digests[name]) != digest:
                raise UsageError(
                    f"{name}: its content differs from what rank 0 has read (SHA-256 "
                    f"{digest[:12]}..., there {there[:12]}...); all hosts need the same files"
                )

    def _directions(self, plan: Plan) -> tuple[objectives.Directions, objectives.Steps | None]:
        """Read the directions; along a curve there are as many as control points but one."""
        directions = {
            axis: {name: torch.from_numpy(values) for name, values in stored.items()}
            for axis, stored in read_directions(plan.path).items()
        }
        spec = self._job.directions["alpha"]
        if not isinstance(spec, CurveDirection) or self._job.is_curve_plane:
            return directions, None
        stacked = directions["alpha"]
        count = len(next(iter(stacked.values())))

        def steps(cell: Cell) -> Sequence[float]:
            weights = curve.coefficients(spec.shape, count - 1, cell.alpha)
            return [float(weight) for weight in weights[1:]]

        return {str(k): {n: t[k] for n, t in stacked.items()} for k in range(count)}, steps

    def _take_up(self, plan: Plan) -> None:
        """Take note of the checkpoints that are cells, too."""
        found = read_trajectory(plan.path)
        assert found is not None
        alpha = found.columns["alpha"].tolist()
        beta = found.columns["beta"].tolist() if "beta" in found.columns else [0.0] * len(alpha)
        self._checkpoints = plan.checkpoints
        self._under = [Cell(a, b) for a, b in zip(alpha, beta, strict=True)]
        names = prepare.trajectory_quantity_names(self._job, self._loaded.dataset)
        self._quantities += [name for name in names if name not in self._quantities]

    def _metrics(self, index: int) -> tuple[objectives.Metrics, float | None]:
        """Return a cell's metrics, and its share of the seconds if it was evaluated with others."""
        if index >= self.grid.size:
            return self._metrics_of_checkpoint(index), None
        if self._cells_per_pass > 1:
            return self._metrics_of_group(index)
        return self._metrics_alone(index), None

    def _metrics_alone(self, index: int) -> objectives.Metrics:
        coarse = self.grid.cell(self._coarse[index])
        return self._objective.evaluate(self.grid.cell(index), coarse, self._known(index))

    def _begin_groups(self, size: int) -> None:
        self._cells_per_pass = size
        self._group_of = self.grid.pass_groups(size)
        self._of_group: dict[int, objectives.Metrics] = {}  # evaluated, and not asked for yet

    def _metrics_of_group(self, index: int) -> tuple[objectives.Metrics, float]:
        """Evaluate a cell's whole group, whatever of it is missing; the others wait their turn."""
        start = time.monotonic()
        if index not in self._of_group:
            members = np.flatnonzero(self._group_of == self._group_of[index]).tolist()
            filled = members + members[-1:] * (self._cells_per_pass - len(members))
            # Always as many, for the same bits in a grid of another size.
            metrics = self._objective.losses_of_group([self.grid.cell(m) for m in filled])
            self._of_group = dict(zip(members, metrics, strict=False))
            self._share_s = (time.monotonic() - start) / len(members)
        return self._of_group.pop(index), self._share_s

    def _metrics_of_checkpoint(self, index: int) -> objectives.Metrics:
        """Return the metrics of a checkpoint, and those of the plane under it."""
        number = index - self.grid.size
        plane = self._objective.losses(self._under[number])
        key = "trajectory.checkpoints"
        loaded = checkpoint.load(self._checkpoints[number], key=key)
        own = self._objective.losses_of(lambda model: checkpoint.fit(model, loaded, key=key))
        return own | {f"plane_{name}": value for name, value in plane.items()}

    def _known(self, index: int) -> objectives.Metrics:
        """Return what the file had of a missing cell at the start: losses, or curvature.

        They are there when the surface extends another one by a quantity.  A value that is not
        finite counts as none, and is computed again.
        """
        known: objectives.Metrics = {}
        for names in self._kinds:
            values = {name: float(self._held[name].flat[index]) for name in names}
            if all(math.isfinite(value) for value in values.values()):
                known |= values
        return known

    def _where(self, index: int) -> Cell:
        if index < self.grid.size:
            return self.grid.cell(index)
        return self._under[index - self.grid.size]

    def _lanczos(self) -> LanczosOptions | None:
        document = self._job.document
        if "curvature" not in document.quantities:
            return None
        asked = document.curvature
        return LanczosOptions(asked.tolerance, asked.max_products, asked.basis, document.seed)

    def _check_centre(self, settings: objectives.EvaluationSettings) -> None:
        """Compare the centre cell with the checkpoint evaluated on its own."""
        reference = self._objective.reference
        if self._cells_per_pass > 1:
            cell = self._objective.losses_of_group([Cell(0.0)] * self._cells_per_pass)[0]
        elif settings.is_exact:
            cell = self._objective.losses(Cell(0.0))
        else:
            cell = self._objective.exact_losses(Cell(0.0))
        tolerance = {"float64": 1e-12}.get(settings.precision, 1e-5)
        for name in (n for n in reference if n.endswith("_loss")):
            found, expected = cell[name], reference[name]
            both_nan = math.isnan(found) and math.isnan(expected)
            if not both_nan and not math.isclose(found, expected, rel_tol=tolerance):
                self._refuse_chance()
                raise RuntimeError(
                    f"centre check: {name} of the cell at 0 is {found!r}, the checkpoint's own "
                    f"is {expected!r}"
                )
        are_numbers = not any(math.isnan(value) for value in reference.values())
        word = "passed" if are_numbers else "undefined"
        log.log(NOTICE, "centre check %s: %s", word, _shown(reference))

    def _refuse_chance(self) -> None:
        """Tell a network that draws numbers from a mistake of lsengine's."""
        first, second = (self._objective.exact_losses(Cell(0.0)) for _ in range(2))
        if first != second:
            raise UsageError(
                "model.arch: two evaluations of the same weights differ; is there dropout or "
                "noise that evaluation mode does not switch off?"
            )

    def _warn_if_not_finite(self, index: int, metrics: objectives.Metrics) -> None:
        bad = {n: v for n, v in metrics.items() if n.endswith("_loss") and not math.isfinite(v)}
        if bad and not self._warned:
            cell, (name, value) = self._where(index), next(iter(bad.items()))
            log.warning(
                "%s is %s at %s; stored as it is, not retried, later ones are not reported",
                *(name, value, self.grid.place(cell)),
            )
            self._warned = True


def _is_of_hessians(job: Job) -> bool:
    """Whether sums that differ in their last bits would be multiplied again and again."""
    along = any(isinstance(spec, HessianDirection) for spec in job.directions.values())
    return along or "curvature" in job.document.quantities


def _shown(metrics: objectives.Metrics) -> str:
    return " ".join(f"{n}={v:.6g}" for n, v in metrics.items() if not n.endswith("_se"))
