"""What curvature costs: products per cell of a map, and a product's time over a gradient's.

The map is that of the demo's ResNet-20 on the digits, which is trained first if its checkpoint
is not there.  Coarse cells, every fourth of each axis, start from a seeded random vector; the
others from the two vectors of their coarse cell.  A seeded sample of both is evaluated, through
`lsengine.objective.Objective`, as in a run.  The exit status is 1 if a mean is over its target,
or a cell did not converge.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import harness
import numpy as np
import torch
from torch.func import functional_call, grad, jvp
from torch.nn import functional as F

from lsengine import devices
from lsengine import job as jobs
from lsengine import objective as objectives
from lsengine.curvature import Hessian, LanczosOptions, Way
from lsengine.curvature.cells import NAMES
from lsengine.engine import prepare
from lsengine.objective import losses
from lsengine.surface.grid import Cell, make_grid
from lsengine.training import training

TARGET_COLD, TARGET_WARM = 32, 20
JOB = harness.ROOT / "jobs" / "demo.yaml"


def main() -> int:
    """Print a row for every pair of cells, and the times; return 1 if a target is missed."""
    parser = harness.arguments(__doc__.partition("\n")[0])
    parser.add_argument("--cells", type=int, default=16, help="pairs of cells (16)")
    parser.add_argument("--points", type=int, default=51, help="grid points of an axis (51)")
    parser.add_argument("--samples", type=int, default=480, help="training images (480)")
    options = parser.parse_args()
    if options.quick:
        options.cells, options.samples = 2, 96
    load_before = os.getloadavg()[0]
    torch.set_num_threads(1)
    devices.tune_malloc()
    objective = made(options.samples)
    times = timed(objective.hessian(Cell(0.0)), repeats=2 if options.quick else 5)
    rows, cells = measured(objective, options.points, options.cells)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    cold, warm = (np.array([c[k]["products"] for c in cells]) for k in ("coarse", "fine"))
    ratio = {way: t / times["gradient"] for way, t in times.items()}
    notes = [
        f"products cold {spread(cold)}, target {TARGET_COLD}: {verdict(cold, TARGET_COLD)}",
        f"products from the coarse cell's vectors {spread(warm)}, target {TARGET_WARM}: "
        f"{verdict(warm, TARGET_WARM)}",
        f"a gradient over {options.samples} images: {times['gradient'] * 1e3:.0f} ms of processor "
        "time; a product, in gradients: "
        + ", ".join(f"{way} {ratio[way]:.2f}" for way in times if way != "gradient"),
        f"peak memory of the process {peak_mib:.0f} MiB",
    ]
    header = ("alpha", "beta", "eigenvalue_min", "eigenvalue_max", "cold", "warm", "converged")
    facts = {"arch": "resnet20", "data": "digits 1x8x8", "threads": 1, **vars(options)}
    record = {
        "context": harness.context(load_before, **facts),
        "cells": cells,
        "cold": {"mean": float(cold.mean()), "target": TARGET_COLD},
        "warm": {"mean": float(warm.mean()), "target": TARGET_WARM},
        "cpu_s": times,
        "peak_mib": peak_mib,
    }
    harness.print_report("bench_curvature", header, rows, notes, record)
    missed = verdict(cold, TARGET_COLD) == "missed" or verdict(warm, TARGET_WARM) == "missed"
    return int(missed or any(row[-1] != "both" for row in rows))


def made(samples: int) -> objectives.Objective:
    """Return the demo's objective with curvature, on so many training images."""
    if not jobs.load(JOB).checkpoint.exists():
        training.run(jobs.load(JOB, command="train"), progress="none")
    job = jobs.load(JOB, command="eval")
    data = job.document.data.model_copy(update={"splits": ["train"], "subset": samples})
    job = jobs.Job(job.source, job.document.model_copy(update={"data": data}))
    loaded = prepare.load(job)
    directions = {
        axis: {name: torch.from_numpy(values) for name, values in parameters.items()}
        for axis, parameters in prepare.make_directions(job, loaded.model).items()
    }
    settings = objectives.EvaluationSettings(
        device=torch.device("cpu"),
        precision="float32",
        batch_size=devices.automatic_batch_size((1, 8, 8), "cpu"),
        curvature=LanczosOptions(),
    )
    loss = losses.loss_function("cross_entropy", job_folder=harness.ROOT)
    return objectives.Objective(loaded.model, loaded.dataset, loss, directions, settings)


def measured(
    objective: objectives.Objective, points: int, count: int
) -> tuple[list[tuple[str, ...]], list[dict[str, Any]]]:
    """Evaluate ``count`` coarse cells and a fine cell of the block of each."""
    grid = make_grid([-1, 1, points], [-1, 1, points])
    coarse_C = grid.warm_start_cells()
    rng = np.random.default_rng(0)
    every = np.unique(coarse_C)
    rows, cells = [], []
    for index in rng.choice(every, min(count, every.size), replace=False):
        block = np.setdiff1d(np.flatnonzero(coarse_C == index), [index])
        pair = {"coarse": grid.cell(int(index)), "fine": grid.cell(int(rng.choice(block)))}
        found: dict[str, Any] = {}
        for role, cell in pair.items():
            start = time.process_time()
            metrics = objective.evaluate(cell, pair["coarse"])
            found[role] = {"alpha": cell.alpha, "beta": cell.beta}
            found[role] |= {name: metrics[name] for name in NAMES}
            found[role]["cpu_s"] = time.process_time() - start
        cells.append(found)
        fine = found["fine"]
        converged = all(found[role]["converged"] for role in pair)
        rows.append(
            (
                *(f"{fine['alpha']:.2f}", f"{fine['beta']:.2f}"),
                *(f"{fine['eigenvalue_min']:.4g}", f"{fine['eigenvalue_max']:.4g}"),
                *(f"{found[role]['products']:.0f}" for role in pair),
                "both" if converged else "not both",
            )
        )
    return rows, cells


def timed(hessian: Hessian, repeats: int) -> dict[str, float]:
    """Return the processor time of a gradient, and of a product by each way of differentiating."""
    model, batches = hessian._products.model, hessian._batches
    vector = torch.randn(hessian.size, generator=torch.Generator().manual_seed(0))
    weights = {k: p.detach() for k, p in model.named_parameters()}
    tangents = hessian.unflatten(vector)

    def mean_loss(at: dict[str, torch.Tensor], batch: Any) -> torch.Tensor:
        return F.cross_entropy(functional_call(model, at, (batch[0],)).double(), batch[1])

    def gradient() -> None:
        for batch in batches:
            leaves = {k: w.clone().requires_grad_() for k, w in weights.items()}
            torch.autograd.grad(mean_loss(leaves, batch), list(leaves.values()))

    def forward_over_reverse() -> None:
        for batch in batches:
            jvp(lambda w, b=batch: grad(mean_loss)(w, b), (weights,), (tangents,))

    def two_backward_passes() -> None:
        hessian.way = Way(kind="reverse")
        hessian(vector)
        hessian.way = Way()

    ways: dict[str, Callable[[], object]] = {
        "gradient": gradient,
        "reverse over forward (used)": lambda: hessian(vector),
        "forward over reverse": forward_over_reverse,
        "two backward passes (fallback)": two_backward_passes,
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(repeats + 1):  # in turns; the first does not count
        for way, work in ways.items():
            start = time.process_time()
            work()
            if turn:
                times[way].append(time.process_time() - start)
    return {way: min(taken) for way, taken in times.items()}


def spread(values: np.ndarray) -> str:
    """Return ``mean +- standard error, from smallest to largest``."""
    error = values.std(ddof=1) / np.sqrt(values.size) if values.size > 1 else np.nan
    return f"{values.mean():.1f} +- {error:.1f}, {values.min():.0f} to {values.max():.0f}"


def verdict(values: np.ndarray, target: float) -> str:
    """Return whether a target is met."""
    return "met" if values.mean() <= target else "missed"


if __name__ == "__main__":
    sys.exit(main())
