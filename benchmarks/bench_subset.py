"""What fewer samples do to a contour: the demo's plane with a part of its training images.

Every cell sees the same samples, so that their luck is nearly the same everywhere: it lifts or
lowers the surface more than it bends it.  Compared with the surface of all images, for several
draws:

- bar: the standard error that a cell of the subset states, relative to its loss.
- level: the relative error of a cell, its modulus, the median of all cells.
- step between neighbours: the error of the difference of two neighbouring cells, over what it
  would be if each cell had drawn samples of its own (from the bars).
- contour: how far the contours at the quartiles of the loss lie apart, as a share of the axis.
"""

from __future__ import annotations

import copy
import os
import time
from pathlib import Path

import harness
import numpy as np
import torch
from numpy.typing import NDArray

from lsengine import data, devices
from lsengine import job as jobs
from lsengine import objective as objectives
from lsengine.engine import prepare
from lsengine.objective import losses
from lsengine.surface.grid import Grid, make_grid
from lsengine.training import training

JOB = harness.ROOT / "jobs" / "demo.yaml"
Plane = NDArray[np.float64]


def main() -> None:
    """Print a row for every size of subset."""
    parser = harness.arguments(__doc__.partition("\n")[0])
    parser.add_argument("--points", type=int, default=13, help="grid points of an axis (13)")
    options = parser.parse_args()
    points, draws = (5, 1) if options.quick else (options.points, 3)
    load = os.getloadavg()[0]
    torch.set_num_threads(1)
    devices.tune_malloc()
    if not jobs.load(JOB).checkpoint.exists():
        training.run(jobs.load(JOB, command="train"), progress="none")
    job = jobs.load(JOB, command="eval")
    grid = make_grid((-1, 1, points), (-1, 1, points))
    loaded = prepare.load(job)
    whole = len(loaded.dataset.splits["train"].x)
    full, _, full_s = surface(job, loaded, grid, None, 0)
    rows, results = [], []
    for samples in (whole // 2, whole // 10, whole // 30):
        found = []
        for draw in range(draws):
            part, bars, cpu_s = surface(job, loaded, grid, samples, draw)
            found.append({**compared(full, part, bars), "speedup": full_s / cpu_s})
        mean = {name: float(np.mean([one[name] for one in found])) for name in found[0]}
        results.append({"samples": samples, "draws": found, "mean": mean})
        rows.append(
            [
                *(str(samples), f"{mean['bar']:.1%}", f"{mean['level']:.1%}"),
                *(f"{mean['step']:.2f}", f"{mean['contour']:.2%}", f"{mean['speedup']:.1f}"),
            ]
        )
    facts = harness.context(load, points=points, draws=draws, samples=whole, threads=1)
    header = ["samples", "bar", "level", "step between neighbours", "contour", "times as fast"]
    notes = [
        f"Means over {draws} draws; {whole} samples, {points}x{points} cells, {full_s:.0f} s.",
        f"Loss of all samples from {full.min():.3g} to {full.max():.3g}.",
    ]
    record = {"context": facts, "results": results}
    harness.print_report("bench_subset", header, rows, notes, record)


def surface(
    job: jobs.Job, loaded: prepare.Loaded, grid: Grid, samples: int | None, seed: int
) -> tuple[Plane, Plane, float]:
    """Return training loss and bars on the grid, (B, A) each, and the processor time."""
    spec = job.document.data.model_copy(update={"splits": ["train"], "subset": samples})
    dataset = data.load(spec, root=None, job_folder=JOB.parent, seed=seed)
    model = copy.deepcopy(loaded.model)
    drawn = {
        axis: {name: torch.from_numpy(values) for name, values in parameters.items()}
        for axis, parameters in prepare.make_directions(job, model).items()
    }
    settings = objectives.EvaluationSettings(
        device=torch.device("cpu"),
        precision="float32",
        batch_size=devices.automatic_batch_size((1, 8, 8), "cpu"),
    )
    loss = losses.loss_function("cross_entropy", job_folder=Path())
    objective = objectives.Objective(model, dataset, loss, drawn, settings)
    start = time.process_time()
    cells = [objective.losses(grid.cell(index)) for index in range(grid.size)]
    cpu_s = time.process_time() - start
    values, bars = (
        np.array([cell[name] for cell in cells]).reshape(grid.shape)
        for name in ("train_loss", "train_loss_se")
    )
    return values, bars, cpu_s


def compared(full: Plane, part: Plane, bars: Plane) -> dict[str, float]:
    """Return how a surface of a subset differs from that of all samples."""
    error = part - full
    steps, expected = [], []
    for axis in (0, 1):
        steps.append(np.diff(error, axis=axis).ravel())
        square = np.moveaxis(bars**2, axis, 0)
        expected.append((square[1:] + square[:-1]).ravel())
    return {
        "bar": float(np.median(bars / part)),
        "level": float(np.median(np.abs(part / full - 1))),
        "step": float(
            np.sqrt(np.mean(np.concatenate(steps) ** 2) / np.mean(np.concatenate(expected)))
        ),
        "contour": contour_distance(full, part),
    }


def contour_distance(full: Plane, part: Plane) -> float:
    """Return the mean distance of contours along rows, as a share of the axis."""
    distances = []
    for level in np.quantile(full, (0.25, 0.5, 0.75)):
        for row, other in zip(full, part, strict=True):
            ours, theirs = crossings(row, level), crossings(other, level)
            distances += [min(abs(theirs - x)) for x in ours if theirs.size]
    return float(np.mean(distances) / (full.shape[1] - 1))


def crossings(row: Plane, level: float) -> Plane:
    """Return where a row crosses a level, in cells, by linear interpolation."""
    above = row > level
    at = np.flatnonzero(above[1:] != above[:-1])
    crossed: Plane = at + (level - row[at]) / (row[at + 1] - row[at])
    return crossed


if __name__ == "__main__":
    main()
