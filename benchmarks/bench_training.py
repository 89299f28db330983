"""A training on a CPU: lsengine against a plain loop of torch, by processor time.

The plain loop is what a tutorial has: float32, torch's own layout of memory, SGD, the same network
and the same augmentation.  Every way is a process of one thread, so that none of them has what
another has set up; they train an epoch in turns.  The images are random numbers of CIFAR's size:
what is in them costs nothing.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import harness
import numpy as np
import torch
import yaml
from torch import nn

from lsengine import data, job, models
from lsengine.job import Job
from lsengine.training.learner import Learner

TARGET = 1.3
CROP = 4
CASES = (  # network, images of a batch, images of an epoch
    ("resnet20", 128, 640),
    ("resnet56", 128, 384),
    ("vgg9", 128, 512),
    ("vgg9", 1024, 1024),
)
WAYS = ("plain", "float32", "bfloat16")


def main() -> None:
    """Print a row for every network."""
    options = harness.arguments(__doc__.partition("\n")[0]).parse_args()
    load, repeats = os.getloadavg()[0], 2 if options.quick else 3
    rows: list[list[str]] = []
    results: list[dict[str, Any]] = []
    for arch, batch, samples in CASES[: 1 if options.quick else None]:
        rates = measured(arch, batch, samples, repeats)
        faster = {
            way: harness.summary([a / b for a, b in zip(of_way, rates["plain"], strict=True)])
            for way, of_way in rates.items()
        }
        figures = {way: harness.summary(of_way) for way, of_way in rates.items()}
        results.append({"network": arch, "batch": batch, "rates": figures, "faster": faster})
        rows.append(
            [arch, f"{batch:,}", *(harness.shown(figures[way]) for way in WAYS)]
            + [harness.shown(faster[way]) for way in WAYS[1:]]
        )
    header = ["network", "batch", *(f"{way}, images/s" for way in WAYS)]
    header += [f"{way}, times as fast" for way in WAYS[1:]]
    worst = min(max(r["faster"][way]["median"] for way in WAYS[1:]) for r in results)
    notes = [f"target {TARGET:g} times: {'met' if worst >= TARGET else 'missed'}, {worst:.2f}"]
    facts = harness.context(load, threads=1)
    harness.print_report(
        "bench_training", header, rows, notes, {"context": facts, "results": results}
    )


def measured(arch: str, batch: int, samples: int, repeats: int) -> dict[str, list[float]]:
    """Return images per second of processor time of each epoch, by way."""
    spawn = multiprocessing.get_context("spawn")
    ends = {}
    for way in WAYS:
        ends[way], theirs = spawn.Pipe()
        arguments = (theirs, way, arch, batch, samples)
        spawn.Process(target=_serve, args=arguments, daemon=True).start()
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    for epoch in range(1, repeats + 2):
        for way, end in ends.items():
            end.send(epoch)
            spent_s = end.recv()
            if epoch > 1:
                rates[way].append(samples / spent_s)
    for end in ends.values():
        end.send(None)
    return rates


def _serve(end: Connection, way: str, arch: str, batch: int, samples: int) -> None:
    """Train an epoch whenever its number comes, and send the processor time of it."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        loaded = _job(Path(folder), way, arch, batch, samples)
        dataset = data.load(
            loaded.document.data, root=Path(folder) / "a.npz", job_folder=Path(folder), seed=0
        )
        train: Callable[[int], object]
        if way == "plain":
            train = Plain(loaded, dataset).train_epoch
        else:
            train = Learner(loaded.document, dataset, job_folder=Path(folder)).train_epoch
        while (epoch := end.recv()) is not None:
            before_s = time.process_time()
            train(epoch)
            end.send(time.process_time() - before_s)


def _job(folder: Path, way: str, arch: str, batch: int, samples: int) -> Job:
    rng = np.random.default_rng(0)
    x = rng.integers(256, size=(samples, 3, 32, 32), dtype=np.uint8)
    np.savez(folder / "a.npz", x_train=x, y_train=np.arange(samples) % 10)
    precision = "bfloat16" if way == "bfloat16" else "float32"
    recipe = {"output": "o", "epochs": 99, "batch_size": batch, "crop": CROP, "flip": True}
    content: dict[str, Any] = {
        "model": {"arch": arch},
        "data": {"dataset": "arrays", "root": "a.npz", "splits": ["train"]},
        **{"device": "cpu", "threads": 1},
        "train": recipe | {"precision": precision},
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(content))
    return job.load(folder / "job.yaml", command="train")


class Plain:
    """A training as anybody writes it, on images that are in memory."""

    def __init__(self, loaded: Job, dataset: data.Dataset) -> None:
        assert loaded.document.train is not None
        self._batch = loaded.document.train.batch_size
        self._x = data.lone(data.normalized(dataset, "train", torch.float32))
        self._y = data.lone(dataset.splits["train"].y)
        self._network = models.build(
            loaded.document.model, channels=3, classes=10, size=(32, 32), job_folder=Path()
        )
        self._optimizer = torch.optim.SGD(
            self._network.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
        )

    def train_epoch(self, epoch: int) -> None:
        """Go once through all images."""
        torch.manual_seed(epoch)
        self._network.train()
        for chosen in torch.randperm(len(self._x)).split(self._batch):
            images = self._augmented(self._x[chosen])
            self._optimizer.zero_grad()
            nn.functional.cross_entropy(self._network(images), self._y[chosen]).backward()
            self._optimizer.step()

    def _augmented(self, images: torch.Tensor) -> torch.Tensor:
        padded = nn.functional.pad(images, (CROP,) * 4)
        shifts = torch.randint(2 * CROP + 1, (len(images), 2)).tolist()
        pieces = zip(padded, shifts, strict=True)
        moved = torch.stack([image[:, r : r + 32, c : c + 32] for image, (r, c) in pieces])
        mirrored = torch.rand(len(moved)) < 0.5
        moved[mirrored] = moved[mirrored].flip(3)
        return moved


if __name__ == "__main__":
    main()
