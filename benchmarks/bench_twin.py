"""What the naive twin adds to the start of a run.

    python benchmarks/bench_twin.py

Rank 0 makes the twin and every worker compares its values with it, once per run.  Both are timed
for the network of the demo, a ResNet-56 on images of 32x32, and a perceptron of a user's own.  The
table has CPU seconds of one thread, the smallest of several runs.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import numpy as np
import torch
import yaml

from lsengine import models, store
from lsengine.engine import Options, evaluate, evaluator, run
from lsengine.job import schema
from lsengine.models import checkpoint
from lsengine.wording import table

RUNS = 3
OWN = """
from torch import nn


def make():
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
"""
NETWORKS: dict[str, tuple[str, tuple[int, ...]]] = {
    "resnet20 of the demo, 8x8": ("resnet20", (1, 8, 8)),
    "resnet56, 32x32": ("resnet56", (3, 32, 32)),
    "a user's own perceptron": ("own:make", (64,)),
}


def write_job(folder: Path, arch: str, shape: tuple[int, ...]) -> Path:
    """Write a job of 3x3 cells with random weights and samples."""
    (folder / "own.py").write_text(OWN)
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(256, *shape)).astype(np.float32), np.arange(256) % 10
    np.savez(folder / "data.npz", x_train=x, y_train=y, x_test=x[:64], y_test=y[:64])
    spec, size = schema.ModelSpec(arch=arch), (shape[1], shape[2]) if len(shape) == 3 else None
    torch.manual_seed(0)
    network = models.build(spec, channels=shape[0], classes=10, size=size, job_folder=folder)
    checkpoint.save(folder / "centre.pt", network)
    document = {
        "model": {"arch": arch, "checkpoint": "centre.pt"},
        "data": {"dataset": "arrays", "root": "data.npz"},
        "directions": {axis: {"kind": "random"} for axis in ("alpha", "beta")},
        "grid": {axis: [-1, 1, 3] for axis in ("alpha", "beta")},
        "device": "cpu",
        "threads": 1,
        "output": "surface.h5",
    }
    job = folder / "job.yaml"
    job.write_text(yaml.safe_dump(document))
    return job


def timed(module: Any, name: str, spent: dict[str, list[float]]) -> None:
    """Note the CPU seconds of every call of a function of a module."""
    function: Callable[..., Any] = getattr(module, name)

    def call(*args: Any, **named: Any) -> Any:
        start = time.process_time()
        result = function(*args, **named)
        spent.setdefault(name, []).append(time.process_time() - start)
        return result

    setattr(module, name, call)


def main() -> None:
    """Print the table."""
    options = harness.arguments(__doc__.partition("\n")[0]).parse_args()
    spent: dict[str, list[float]] = {}
    torch.set_num_threads(1)
    timed(run, "make_twin", spent)
    timed(evaluator, "compare_with_twin", spent)
    rows = [["network", "parameters", "make, s", "compare, s"]]
    for label, (arch, shape) in NETWORKS.items():
        spent.clear()
        for _ in range(1 if options.quick else RUNS):
            with tempfile.TemporaryDirectory() as folder:
                job = write_job(Path(folder), arch, shape)
                evaluate([job], Options(progress="none"), world=None)
                state = store.read_state(job.with_name("surface.h5"))
        count = sum(int(np.prod(s)) for _, s, is_parameter in state if is_parameter)
        seconds = [min(spent[name]) for name in ("make_twin", "compare_with_twin")]
        rows.append([label, f"{count:,}", *(f"{s:.2f}" for s in seconds)])
    print(table(rows))


if __name__ == "__main__":
    main()
