"""Fast precisions: which one a job can afford, and what it costs a surface.

A precision is fast if it is not that of the weights.  Its error is the relative difference of a
mean loss to the one in float32 of the same weights.

Shape suffixes: A alphas, B betas.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from lsengine import devices
from lsengine import objective as objectives
from lsengine.engine.prepare.loading import Loaded, criterion_of
from lsengine.engine.prepare.selection import movable_tensors
from lsengine.engine.prepare.settings import (
    BATCH_NORM,
    CURVATURE,
    batch_size,
    evaluation_settings,
    sample_shape,
)
from lsengine.errors import EnvironmentUnfit, UsageError
from lsengine.geometry import directions
from lsengine.job import Job
from lsengine.log import NOTICE
from lsengine.objective import sixteen_bits
from lsengine.objective.forward import copied
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
            f"precision: {precision} is slower than float32 on this processor, which lacks "
            "instructions for it; float32 or auto is faster and more exact"
        )
    missing = {"tf32": device.type != "cuda", "float64": device.type == "mps"}
    if missing.get(precision):
        raise EnvironmentUnfit(
            f"precision: {precision} is not there on {device.type}; use float32 or auto"
        )


def check_products(precision: str, device: torch.device) -> None:
    """Refuse a precision of products with Hessians that a device does not have.

    Raises:
        EnvironmentUnfit: For tf32 anywhere but on CUDA.
    """
    if precision == "tf32" and device.type != "cuda":
        raise EnvironmentUnfit(
            f"curvature.precision: tf32 is not there on {device.type}; leave it out"
        )


def refuse_unfit(precision: str, loaded: Loaded) -> None:
    """Refuse a precision of 16 bits where it would not only round.

    Raises:
        UsageError: With the reason.
    """
    if precision in ("bfloat16", "float16") and (
        obstacle := sixteen_bits.unfit(loaded.model, loaded.dataset)
    ):
        raise UsageError(f"precision: {precision} cannot be used: {obstacle}; use float32")


def settle(job: Job, loaded: Loaded, device: torch.device, tick: Callable[[], None]) -> str:
    """Return the fastest precision whose error stays within the job's tolerance.

    Measured at the checkpoint and at one random displacement as long as its filters, which
    depend on the job alone, as the answer then does on the job and the kind of device.  ``tick``
    is called before every mini-batch and may raise to stop.
    """
    tolerance = job.document.precision_tolerance
    if obstacle := sixteen_bits.unfit(loaded.model, loaded.dataset):
        log.log(NOTICE, "precision: float32, since %s", obstacle)
        return "float32"
    for candidate in devices.fast_precisions(device):
        try:
            objective = _objective(job, loaded, device, candidate, tick)
        except UsageError as refusal:  # its code may insist on another dtype
            log.log(NOTICE, "precision: %s cannot be used: %s", candidate, refusal)
            continue
        rows = [_row(objective, cell) for cell in (Cell(0.0), Cell(1.0))]
        error = max(_error(row) for row in rows)
        log.log(NOTICE, "precision: error of %s is %.2g, %g allowed", candidate, error, tolerance)
        if error <= tolerance:
            return candidate
    return "float32"


def compared(objective: objectives.Objective, grid: Grid) -> tuple[Row, ...]:
    """Return how far the cells nearest the centre, the first and the last are from float32.

    For each of the three alpha, beta, the loss in float32, and the one in the fast precision.
    """
    cells = nearest_to_centre(grid), grid.cell(0), grid.cell(grid.size - 1)
    rows = tuple(_row(objective, cell) for cell in cells)
    log.log(NOTICE, "largest error of the precision: %.2g of a loss", max(map(_error, rows)))
    return rows


def nearest_to_centre(grid: Grid) -> Cell:
    """Return the cell nearest the centre, the first of several.

    By arithmetic on the axes: a grid may have a hundred million cells.
    """
    alpha_A, beta_B = grid.axes["alpha"], grid.axes.get("beta", np.zeros(1))
    smallest_alpha = float(abs(alpha_A).min())
    shortest = math.hypot(smallest_alpha, float(abs(beta_B).min()))
    for row, beta in enumerate(beta_B.tolist()):
        if math.hypot(smallest_alpha, beta) > shortest:
            continue
        # NumPy's lengths may be off in their last bit; `math.hypot` has the say.
        lengths_A = np.hypot(alpha_A, beta)
        for column in np.flatnonzero(lengths_A <= shortest * (1 + 1e-15)).tolist():
            if math.hypot(float(alpha_A[column]), beta) <= shortest:
                return grid.cell(row * len(alpha_A) + column)
    raise AssertionError("no cell is as near as the nearest")


def _objective(
    job: Job, loaded: Loaded, device: torch.device, precision: str, tick: Callable[[], None]
) -> objectives.Objective:
    document, model = job.document, copied(loaded.model)
    centre = movable_tensors(job, model, job.directions["alpha"])
    drawn = directions.draw(centre, seed=document.seed, axis=0, repeat=0)
    settings = evaluation_settings(
        job,
        device,
        precision=precision,
        batch_size=batch_size(
            job, sample_shape(loaded.dataset), device.type, devices.memory_of(device)
        ),
        # Rounding is compared for one network, with the statistics that it has.
        without=BATCH_NORM | CURVATURE,
    )
    loss = criterion_of(job, loaded.dataset)
    along = {"alpha": directions.normalized(drawn, centre, "filter")}
    return objectives.Objective(model, loaded.dataset, loss, along, settings, tick=tick)


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
