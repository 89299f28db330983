"""A cell with its inputs in each of the places where they may be: ready, raw, host, file.

Random images, stored as bytes, in memory and in a file that is mapped.  On a card with
``--images 50000 --size 224`` it is a validation set of ImageNet's size.  Wall clock, in turns.
"""

from __future__ import annotations

import copy
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import harness
import numpy as np
import torch
import workloads
from numpy.typing import NDArray

from lsengine import data, devices
from lsengine import objective as objectives
from lsengine.objective import losses
from lsengine.objective.residence import RESIDENCES

_BLOCK = 256  # images drawn at once


def main() -> None:
    """Print a row for every place."""
    parser = harness.arguments(__doc__.partition("\n")[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--size", type=int, default=32, help="rows and columns")
    parser.add_argument("--only", default=",".join(RESIDENCES), help="places, with commas")
    options = parser.parse_args()
    images = 256 if options.quick else options.images
    load, device = os.getloadavg()[0], devices.device_of(options.device, 0)
    with tempfile.TemporaryDirectory() as folder:
        stored = drawn(Path(folder) / "images.npy", images, options.size)
        found = {
            place: evaluated(stored, device, options.precision, place)
            for place in options.only.split(",")
        }
        results = measured(found, repeats=2 if options.quick else 5)
    rows = [
        [place, harness.shown(row["cell_ms"]), harness.shown(row["over_first"])]
        for place, row in results.items()
    ]
    shape = f"{images} images of 3x{options.size}x{options.size}"
    notes = [f"{shape}, {stored.nbytes / 2**20:.0f} MiB as stored, {options.precision}, {device}"]
    record = {"context": harness.context(load, device=str(device)), "results": results}
    harness.print_report(
        "bench_residence", ["place", "ms/cell", "times the first"], rows, notes, record
    )


def drawn(path: Path, images: int, size: int) -> NDArray[np.uint8]:
    """Write random images into a file, a few at a time, and map it."""
    shape = (images, 3, size, size)
    array = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    rng = np.random.default_rng(0)
    for start in range(0, images, _BLOCK):
        part = array[start : start + _BLOCK]
        part[:] = rng.integers(0, 256, part.shape, dtype=np.uint8)
    array.flush()
    mapped: NDArray[np.uint8] = np.load(path, mmap_mode="r")
    return mapped


def evaluated(
    stored: NDArray[np.uint8], device: torch.device, precision: str, place: Any
) -> objectives.Objective:
    """Return what evaluates cells with the images in a place."""
    work = workloads.make("resnet20", 64)
    is_mapped = place == "file"
    x = torch.from_numpy(stored if is_mapped else np.array(stored))
    split = data.Split(x, torch.arange(len(x)) % 10, is_mapped)
    settings = objectives.EvaluationSettings(
        device=device,
        precision=precision,
        batch_size=devices.automatic_batch_size(
            x.shape[1:], device.type, devices.memory_of(device)
        ),
        residence=place,
    )
    loss = losses.loss_function("cross_entropy", job_folder=Path())
    dataset = replace(work.dataset, splits={"train": split})
    model = copy.deepcopy(work.model)
    return objectives.Objective(model, dataset, loss, work.directions, settings)


def measured(found: dict[str, objectives.Objective], repeats: int) -> dict[str, Any]:
    """Return the times of a cell by place; all must give the same numbers.

    Raises:
        RuntimeError: If they do not.
    """
    times: dict[str, list[float]] = {place: [] for place in found}
    for cell in workloads.cells(1 + repeats):  # the first one warms up
        metrics = {}
        for place, objective in found.items():
            start = time.perf_counter()
            metrics[place] = repr(objective.losses(cell))
            times[place].append(1e3 * (time.perf_counter() - start))
        if len(set(metrics.values())) > 1:
            raise RuntimeError(f"the places differ: {metrics}")
    first = next(iter(times.values()))
    return {
        place: {
            "cell_ms": harness.summary(row[1:]),
            "over_first": harness.summary([a / b for a, b in zip(row, first, strict=True)][1:]),
        }
        for place, row in times.items()
    }


if __name__ == "__main__":
    main()
