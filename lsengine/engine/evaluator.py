"""The evaluator: cells of one job on one device, the same with and without other ranks."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from lsengine import checkpoint, curve
from lsengine import objective as objectives
from lsengine.curvature import Lanczos
from lsengine.engine import prepare
from lsengine.engine.messages import Assignment, Facts, Plan, Report
from lsengine.errors import LsengineError, Stopped
from lsengine.grid import Cell
from lsengine.schema import CurveDirection
from lsengine.store import Results, read_directions, read_grid, read_trajectory

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
        self._device = objectives.device_of(document.device, assignment.slot)
        if self._device.type == "cpu":
            objectives.keep_freed_memory()
        self._loaded = loaded or prepare.load(self._job)
        self.grid = prepare.grid(self._job)
        self._coarse = self.grid.coarse_cells()
        self._quantities = prepare.quantities(self._job, self._loaded.dataset)
        self._checkpoints: tuple[Path, ...] = ()
        self._under: list[Cell] = []  # where the checkpoints lie
        self._warned = False

    def facts(self, host: str) -> Facts:
        """Return where the values come from."""
        kind, identity = self._device.type, ""
        if kind == "cuda":
            properties = torch.cuda.get_device_properties(self._device)
            kind, identity = f"cuda {properties.name}", str(getattr(properties, "uuid", ""))
        dataset = self._loaded.dataset
        shape = next(iter(dataset.splits.values())).x.shape[1:]
        return Facts(
            host, kind, identity, torch.get_num_threads(), str(torch.__version__), tuple(shape)
        )

    def start(self, plan: Plan) -> None:
        """Put everything on the device, with the directions that the file holds.

        Raises:
            RuntimeError: If the centre cell is not the checkpoint's own loss: a bug.
        """
        document, dataset = self._job.document, self._loaded.dataset
        batch_norm = document.batch_norm
        self.grid = read_grid(plan.path)  # an automatic axis has its range there
        if plan.checkpoints:
            self._take_up(plan)
        settings = objectives.Settings(
            device=self._device,
            precision=plan.precision,
            batch_size=plan.batch_size,
            batch_norm=batch_norm.policy,
            recalibration=(batch_norm.samples, batch_norm.batch_size),
            seed=document.seed,
            channels_last=":" not in document.model.arch
            or document.model.arch.startswith("torchvision:"),
            curvature=self._lanczos(),
            curvature_of_moved=document.curvature.parameters == "moved",
        )
        loss = objectives.loss_function(document.loss, beside=self._job.source.parent)
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
        if with_reference:
            self._check_centre(plan.precision)

    def run(self, cells: Sequence[int], limit_s: float = _REPORT_S) -> Report:
        """Evaluate cells until the time is up, at least one.

        An exception in a cell marks that cell failed; a stop ends the run.

        Args:
            cells: Flat indices.
            limit_s: Seconds after which no further cell is begun.
        """
        results = Results(values={name: [] for name in self._quantities}, worker=self._rank)
        begin = time.monotonic()
        interrupted = None
        for index in cells:
            start = time.monotonic()
            try:
                metrics = self._metrics(index)
            except Stopped as stop:
                interrupted = str(stop)
                break
            except LsengineError:
                raise
            except Exception as error:
                metrics = {}
                results.failures[index] = " ".join(f"{type(error).__name__}: {error}".split())
                log.warning("cell=%d failed: %s", index, results.failures[index])
            results.cells.append(index)
            for name, column in results.values.items():
                column.append(metrics.get(name, math.nan))
            results.wall_s.append(time.monotonic() - start)
            results.finished.append(time.time())
            self._warn_if_not_finite(index, metrics)
            if time.monotonic() - begin > limit_s:
                break
        return Report(results, time.monotonic() - begin, interrupted)

    def _directions(self, plan: Plan) -> tuple[objectives.Directions, objectives.Steps | None]:
        """Read the directions; along a curve there are as many as control points but one."""
        directions = {
            axis: {name: torch.from_numpy(values) for name, values in stored.items()}
            for axis, stored in read_directions(plan.path).items()
        }
        spec = self._job.directions["alpha"]
        if not isinstance(spec, CurveDirection):
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
        names = prepare.trajectory_quantities(self._job, self._loaded.dataset)
        self._quantities += [name for name in names if name not in self._quantities]

    def _metrics(self, index: int) -> objectives.Metrics:
        """Return the metrics of a cell of the grid, or of a checkpoint and the plane under it."""
        if index < self.grid.size:
            coarse = self.grid.cell(self._coarse[index])
            return self._objective.evaluate(self.grid.cell(index), coarse)
        number = index - self.grid.size
        plane = self._objective.losses(self._under[number])
        key = "trajectory.checkpoints"
        loaded = checkpoint.load(self._checkpoints[number], key=key)
        own = self._objective.losses_of(lambda model: checkpoint.fit(model, loaded, key=key))
        return own | {f"plane_{name}": value for name, value in plane.items()}

    def _where(self, index: int) -> Cell:
        if index < self.grid.size:
            return self.grid.cell(index)
        return self._under[index - self.grid.size]

    def _lanczos(self) -> Lanczos | None:
        document = self._job.document
        if "curvature" not in document.quantities:
            return None
        asked = document.curvature
        return Lanczos(asked.tolerance, asked.max_products, asked.basis, document.seed)

    def _check_centre(self, precision: str) -> None:
        """Compare the centre cell with the checkpoint evaluated on its own."""
        reference, cell = self._objective.reference, self._objective.evaluate(Cell(0.0))
        tolerance = {"float64": 1e-12}.get(precision, 1e-5)
        for name in (n for n in reference if n.endswith("_loss")):
            found, expected = cell[name], reference[name]
            both_nan = math.isnan(found) and math.isnan(expected)
            if not both_nan and not math.isclose(found, expected, rel_tol=tolerance):
                raise RuntimeError(
                    f"centre check: {name} of the cell at 0 is {found!r}, the checkpoint's own "
                    f"is {expected!r}"
                )
        log.info("centre check passed: %s", _shown(reference))

    def _warn_if_not_finite(self, index: int, metrics: objectives.Metrics) -> None:
        bad = {n: v for n, v in metrics.items() if n.endswith("_loss") and not math.isfinite(v)}
        if bad and not self._warned:
            cell, (name, value) = self._where(index), next(iter(bad.items()))
            log.warning(
                "%s is %s at alpha=%g beta=%g; stored as it is, not retried, later ones are not "
                "reported",
                *(name, value, cell.alpha, cell.beta),
            )
            self._warned = True


def _shown(metrics: objectives.Metrics) -> str:
    return " ".join(f"{n}={v:.6g}" for n, v in metrics.items() if not n.endswith("_se"))
