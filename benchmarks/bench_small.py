"""Cells of a small perceptron on digits: several in one pass against one at a time.

Three layers, all digits or a part of them, one thread, processor time, the two in turns.  How
many cells go together is what the engine takes (`cells_per_pass` of `objective/batched`), or,
where it takes one, what is asked for here to show why.
"""

from __future__ import annotations

import copy
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import harness
import torch
from torch import nn

from lsengine import data, devices
from lsengine import objective as objectives
from lsengine.geometry import directions
from lsengine.job.schema import DataSpec
from lsengine.objective import batched, losses
from lsengine.surface.grid import Cell

TARGET = 5.0
WIDTHS = (16, 32, 64, 128)
SAMPLES = (None, 360, 100)  # of each split


def main() -> None:
    """Print a row for every width and number of samples."""
    options = harness.arguments(__doc__.partition("\n")[0]).parse_args()
    repeats = 3 if options.quick else 15
    load = os.getloadavg()[0]
    torch.set_num_threads(1)
    devices.tune_malloc()
    rows, results = [], []
    for samples in SAMPLES:
        spec = DataSpec(dataset="digits", subset=samples)
        dataset = data.load(spec, root=None, job_folder=Path(), seed=0)
        for width in WIDTHS:
            found = measured(dataset, width, repeats)
            results.append(found)
            rows.append(
                [
                    *(str(width), str(found["samples"]), str(found["cells"])),
                    harness.shown(found["alone_ms"]),
                    harness.shown(found["together_ms"]),
                    harness.shown(found["speedup"]) + ("" if found["is_taken"] else " (not taken)"),
                ]
            )
    facts = harness.context(load, threads=1)
    header = ["width", "samples", "cells", "alone, ms/cell", "together, ms/cell", "times as fast"]
    best = max(r["speedup"]["median"] for r in results if r["is_taken"])
    notes = [
        f"target {TARGET:g} times: {'met' if best >= TARGET else 'missed'}, {best:.1f} at best"
    ]
    harness.print_report("bench_small", header, rows, notes, {"context": facts, "results": results})


def measured(dataset: data.Dataset, width: int, repeats: int) -> dict[str, Any]:
    """Return processor times per cell, together and alone, and how often the one is the other."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()),
        nn.Linear(width, 10),
    )
    taken = batched.cells_per_pass(model, (1, 8, 8))
    count = taken if taken > 1 else 8
    weights = {name: p.detach() for name, p in model.named_parameters() if p.ndim > 1}
    drawn = {
        axis: directions.normalized(
            directions.draw(weights, seed=seed, axis=seed, repeat=0), weights, "filter"
        )
        for seed, axis in enumerate(("alpha", "beta"))
    }
    settings = objectives.EvaluationSettings(
        device=torch.device("cpu"),
        precision="float32",
        batch_size=devices.automatic_batch_size((1, 8, 8), "cpu"),
    )
    loss = losses.loss_function("cross_entropy", job_folder=Path())
    objective = objectives.Objective(copy.deepcopy(model), dataset, loss, drawn, settings)
    cells = [Cell(0.01 * number, 0.1) for number in range(count)]
    together, alone = [], []
    for turn in range(repeats + 1):
        pair = (
            _cpu_ms(partial(objective.losses_of_group, cells)) / count,
            _cpu_ms(lambda: [objective.losses(cell) for cell in cells]) / count,
        )
        if turn:
            together.append(pair[0])
            alone.append(pair[1])
    return {
        "width": width,
        "samples": sum(len(split.x) for split in dataset.splits.values()),
        "cells": count,
        "is_taken": taken > 1,
        "together_ms": harness.summary(together),
        "alone_ms": harness.summary(alone),
        "speedup": harness.summary([a / b for a, b in zip(alone, together, strict=True)]),
    }


def _cpu_ms(work: Any) -> float:
    start = time.process_time()
    work()
    return (time.process_time() - start) * 1e3


if __name__ == "__main__":
    main()
