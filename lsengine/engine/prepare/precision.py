"""Fast precisions: which one a job can afford, and what it costs a surface.

A precision is fast if it is not that of the weights.  Its error is the relative difference of a
mean loss to the one in float32 of the same weights.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Sequence

import torch

from lsengine import devices
from lsengine import objective as objectives
from lsengine.engine.prepare.directions import movable_tensors
from lsengine.engine.prepare.loading import Loaded
from lsengine.errors import EnvironmentUnfit
from lsengine.geometry import directions
from lsengine.job import Job
from lsengine.log import NOTICE
from lsengine.objective import losses
from lsengine.surface.grid import Cell, Grid

log = logging.getLogger(__name__)
Row = tuple[float, float, float, float]


def check(precision: str, device: torch.device) -> None:
    """Refuse a precision that a device does not have.

    Raises:
        EnvironmentUnfit: For tf32 anywhere but on CUDA, and float64 on MPS.
    """
    is_slow = device.type == "cpu" and precision not in devices.fast_precisions(device)
    if is_slow and precision in ("bfloat16", "float16"):
        log.warning(
            "precision: %s is slower than float32 on this processor, which lacks instructions "
            "for it; float32 or auto is faster and more exact",
            precision,
        )
    missing = {"tf32": device.type != "cuda", "float64": device.type == "mps"}
    if missing.get(precision):
        raise EnvironmentUnfit(
            f"precision: {precision} is not there on {device.type}; use float32 or auto"
        )


def settle(job: Job, loaded: Loaded, device: torch.device, tick: Callable[[], None]) -> str:
    """Return the fastest precision whose error stays within the job's tolerance.

    Measured at the checkpoint and at one random displacement as long as its filters, which
    depend on the job alone, as the answer then does on the job and the kind of device.

    Args:
        job: With ``precision: auto``.
        loaded: Its model and data.
        device: Where cells will be evaluated.
        tick: Called before every mini-batch; may raise to stop.
    """
    tolerance = job.document.precision_tolerance
    for candidate in devices.fast_precisions(device):
        objective = _objective(job, loaded, device, candidate, tick)
        rows = [_row(objective, cell) for cell in (Cell(0.0), Cell(1.0))]
        error = max(_error(row) for row in rows)
        log.log(NOTICE, "precision: error of %s is %.2g, %g allowed", candidate, error, tolerance)
        if error <= tolerance:
            return candidate
    return "float32"


def compared(objective: objectives.Objective, grid: Grid) -> tuple[Row, ...]:
    """Return how far the cells nearest the centre, the first and the last are from float32.

    Args:
        objective: In a fast precision.
        grid: The surface's.

    Returns:
        For each of the three alpha, beta, the loss in float32, and the one in the fast precision.
    """
    cells = [grid.cell(index) for index in range(grid.size)]
    nearest = min(cells, key=lambda cell: math.hypot(cell.alpha, cell.beta))
    rows = tuple(_row(objective, cell) for cell in (nearest, cells[0], cells[-1]))
    log.log(NOTICE, "largest error of the precision: %.2g of a loss", max(map(_error, rows)))
    return rows


def _objective(
    job: Job,
    loaded: Loaded,
    device: torch.device,
    precision: str,
    tick: Callable[[], None],
) -> objectives.Objective:
    document, model = job.document, copy.deepcopy(loaded.model)
    centre = movable_tensors(job, model, job.directions["alpha"])
    drawn = directions.draw(centre, seed=document.seed, axis=0, repeat=0)
    batch_size = document.batch_size
    shape = next(iter(loaded.dataset.splits.values())).x.shape[1:]
    if batch_size == "auto":
        batch_size = devices.automatic_batch_size(shape, device.type)
    settings = objectives.EvaluationSettings(
        device=device,
        precision=precision,
        batch_size=batch_size,
        channels_last=not document.model.is_own,
    )
    return objectives.Objective(
        model,
        loaded.dataset,
        losses.loss_function(document.loss, job_folder=job.source.parent),
        {"alpha": directions.normalized(drawn, centre, "filter")},
        settings,
        tick=tick,
    )


def _row(objective: objectives.Objective, cell: Cell) -> Row:
    exact, fast = objective.exact_losses(cell), objective.losses(cell)
    name = next(n for n in exact if n.endswith("_loss"))
    return cell.alpha, cell.beta, exact[name], fast[name]


def _error(row: Sequence[float]) -> float:
    exact, fast = row[2:]
    if exact == fast or (math.isnan(exact) and math.isnan(fast)):
        return 0.0
    error = abs(fast - exact) / abs(exact) if exact else math.inf
    return error if math.isfinite(error) else math.inf
