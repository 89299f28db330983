"""Cells per second of the cell loop against a bare forward pass.

The loop is what a worker does: `Evaluator.run` over displaced cells in chunks of about a
quarter of a second (displacement, forward pass, losses and accuracies of both splits from
float64 logits, the poll for a stop before every mini-batch) and `Writer.write` of each chunk,
with its fsyncs.  The bare pass runs the same fused network over the same batches in the same memory
format under `inference_mode` and looks at nothing.  One thread each.

A ratio of 0.9 says that a tenth of a worker's time goes into anything but the network.
"""

from __future__ import annotations

import copy
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import harness  # first: it imports MPI before HDF5
import numpy as np
import torch
import yaml
from torch import Tensor, nn

from lsengine import data, job, objective, store
from lsengine.cores import Threads
from lsengine.engine import Options
from lsengine.engine.messages import Assignment, Plan
from lsengine.engine.protocol.leases import chunk_size
from lsengine.engine.run import Run
from lsengine.engine.workspace import Workspace
from lsengine.job.schema import ModelSpec
from lsengine.models import build
from lsengine.objective import fused, losses
from lsengine.objective.forward import ForwardPass
from lsengine.ranks import Tag, World

ARCH = "resnet20"
TARGET = 0.9
_POLL_S = 0.05  # between a worker's looks at its mailbox


@dataclass(frozen=True)
class Case:
    """One network and data set, ready to be timed.

    Attributes:
        name: For the table.
        samples: Of all splits together.
        batch_size: The automatic one.
        cells: Per chunk of the loop, and passes of the bare network in the same turn.
        bare: That many passes over the data.
        evaluate: The metrics of that many displaced cells, nothing else.
        loop: The same cells as a chunk, evaluated and written.
        close: The files, at the end.
    """

    name: str
    samples: int
    batch_size: int
    cells: int
    bare: Callable[[], None]
    evaluate: Callable[[], None]
    loop: Callable[[], None]
    close: Callable[[], None]


def main() -> None:
    """Measure both data sets and print the report."""
    options = harness.arguments(__doc__.partition("\n")[0]).parse_args()
    load = os.getloadavg()[0]
    torch.set_num_threads(1)
    repeats, wide = (3, (64, 32)) if options.quick else (40, (192, 64))
    budget_s = 35.0  # for each data set: fewer repeats on a busy or slow machine
    rows, results = [], []
    with tempfile.TemporaryDirectory() as folder:
        kind = harness.file_system(Path(folder))
        for name, section in _data_sections(Path(folder), wide):
            case = _case(Path(folder), name, section)
            result = _measured(case, repeats, budget_s)
            case.close()
            results.append(result)
            rows.append(_row(result))
    facts = harness.context(load, arch=ARCH, threads=1, file_system=kind, target=TARGET)
    header = ["data", "samples", "batch", "repeats", "bare, cells/s", "loop, cells/s"]
    header += ["bare, CPU ms/cell", "evaluate/bare", "loop/bare", "loop/bare, CPU time"]
    notes = [
        "evaluate: Objective.evaluate alone; loop: Evaluator.run and Writer.write, as a worker.",
        "Ratios are of neighbours in time; beside other work, that of processor time says more.",
        f"Target: loop/bare of at least {TARGET}.",
    ]
    record = {"context": facts, "results": results}
    harness.print_report("bench_loop", header, rows, notes, record)


def _data_sections(folder: Path, wide: tuple[int, int]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "digits 1x8x8", {"dataset": "digits"}
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split, count in zip(("train", "test"), wide, strict=True):
        arrays[f"x_{split}"] = rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
        arrays[f"y_{split}"] = np.arange(count) % 10
    np.savez(folder / "wide.npz", **arrays)
    normalize = {"mean": [0.5], "std": [0.29]}
    yield "random 3x32x32", {"dataset": "arrays", "root": "wide.npz", "normalize": normalize}


def _case(folder: Path, name: str, section: dict[str, Any]) -> Case:
    task = _job(folder, name.split()[0], section)
    run = Run(task, Options(progress="none"))
    world = harness.world() or World.alone()
    model, dataset = run.loaded.model, run.loaded.dataset
    network = copy.deepcopy(model).eval().requires_grad_(False)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    second = copy.deepcopy(model)
    assignment = Assignment(job=task, slot=0, share=Threads(1, ""))
    workspace = Workspace(assignment, _tick(world), loaded=run.loaded)
    plan = run.settle(workspace.info(world.host), world, takes_part=True, tick=_tick(world))
    evaluator = workspace.evaluator(replace(plan, check=True))
    bare = _bare_pass(fused.fused(network, torch.float32), dataset, plan.batch_size)
    metrics = _objective(second, dataset, plan)
    writer = store.Writer(plan.path, world.comm_self if plan.parallel else None)
    order = cycle(run.inventory.cells)
    upcoming = cycle(run.inventory.cells)

    def loop() -> None:
        writer.write(evaluator.run([next(order) for _ in range(cells)]).results)

    def evaluate() -> None:
        for _ in range(cells):
            metrics.evaluate(run.inventory.grid.cell(next(upcoming)))

    def passes() -> None:
        for _ in range(cells):
            bare()

    bare()
    start = time.perf_counter()
    bare()
    cells = chunk_size(10**6, 1, time.perf_counter() - start)
    samples = sum(len(split) for split in dataset.splits.values())

    def close() -> None:
        writer.close()
        run.outcome.close()

    return Case(name, samples, plan.batch_size, cells, passes, evaluate, loop, close)


def _job(folder: Path, name: str, section: dict[str, Any]) -> job.Job:
    """Write a job, and as its checkpoint a fresh network with running statistics that fit."""
    document = {
        "name": name,
        "model": {"arch": ARCH, "checkpoint": f"{name}.pt"},
        "data": section,
        "directions": {a: {"kind": "random", "seed": i} for i, a in enumerate(("alpha", "beta"))},
        "grid": {"alpha": [-1, 1, 51], "beta": [-1, 1, 51]},
        "threads": 1,
        "device": "cpu",
        "output": f"{name}.h5",
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(document))
    torch.manual_seed(0)
    spec = job.load(path).document.data
    root = folder / spec.root if spec.root else None
    dataset = data.load(spec, root=root, job_folder=folder, seed=0)
    network = build(
        ModelSpec(arch=ARCH),
        channels=dataset.channels,
        classes=10,
        size=dataset.size,
        job_folder=folder,
    )
    with torch.no_grad():
        network.train()(data.lone(data.normalized(dataset, "train", torch.float32))[:128])
    torch.save({"state_dict": network.state_dict(), "epoch": 0}, folder / f"{name}.pt")
    return job.load(path, command="eval")


def _tick(world: World | None) -> Callable[[], None]:
    """Return what a worker does before every mini-batch."""
    polled = 0.0

    def tick() -> None:
        nonlocal polled
        if world is not None and time.monotonic() - polled > _POLL_S:
            polled = time.monotonic()
            world.poll(Tag.STOP)

    return tick


def _bare_pass(network: ForwardPass, dataset: data.Dataset, size: int) -> Callable[[], None]:
    batches: list[Tensor] = []
    for split in dataset.splits:
        inputs = data.lone(data.normalized(dataset, split, torch.float32))
        batches += inputs.contiguous(memory_format=torch.channels_last).split(size)

    def bare() -> None:
        with torch.inference_mode():
            for batch in batches:
                network(batch)

    return bare


def _objective(network: nn.Module, dataset: data.Dataset, plan: Plan) -> objective.Objective:
    settings = objective.EvaluationSettings(
        device=torch.device("cpu"), precision=plan.precision, batch_size=plan.batch_size
    )
    loss = losses.loss_function("cross_entropy", job_folder=plan.path.parent)
    stored = store.read_directions(plan.path)
    directions = {
        axis: {name: torch.from_numpy(values) for name, values in d.items()}
        for axis, d in stored.items()
    }
    return objective.Objective(network, dataset, loss, directions, settings)


def _measured(case: Case, repeats: int, budget_s: float) -> dict[str, Any]:
    """Time all variants in turn, in an order that rotates; ratios within each turn."""
    variants = {"bare": case.bare, "evaluate": case.evaluate, "loop": case.loop}
    wall: dict[str, list[float]] = {name: [] for name in variants}
    cpu: dict[str, list[float]] = {name: [] for name in variants}
    for action in variants.values():
        action()  # warm
    names, begin = list(variants), time.perf_counter()
    for turn in range(repeats):
        if turn >= 3 and time.perf_counter() - begin > budget_s:
            break
        for name in names[turn % 3 :] + names[: turn % 3]:
            cpu_start, start = time.process_time(), time.perf_counter()
            variants[name]()
            wall[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - cpu_start)
    result: dict[str, Any] = {
        "data": case.name,
        "samples": case.samples,
        "batch_size": case.batch_size,
        "cells_per_turn": case.cells,
    }
    for name in variants:
        result[f"{name}_cells_per_s"] = harness.summary([case.cells / s for s in wall[name]])
        result[f"{name}_cpu_s_per_cell"] = harness.summary([s / case.cells for s in cpu[name]])
    for name in ("evaluate", "loop"):
        for kind, seconds in (("", wall), ("_cpu", cpu)):
            pairs = zip(seconds["bare"], seconds[name], strict=True)
            result[f"{name}_to_bare{kind}"] = harness.summary([a / b for a, b in pairs])
    return result


def _row(result: dict[str, Any]) -> list[str]:
    row = [result["data"], str(result["samples"]), str(result["batch_size"])]
    row += [str(result["loop_to_bare"]["repeats"])]
    row += [harness.shown(result[f"{n}_cells_per_s"]) for n in ("bare", "loop")]
    row += [harness.shown(result["bare_cpu_s_per_cell"], ".1f", 1e3)]
    ratios = ("evaluate_to_bare", "loop_to_bare", "loop_to_bare_cpu")
    return row + [harness.shown(result[name], ".3f") for name in ratios]


if __name__ == "__main__":
    main()
