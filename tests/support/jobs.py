"""Small jobs for the tests: a network, data and a checkpoint in a folder of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml

NETWORKS = '''
"""Networks of the tests, as a user would put them beside a job."""

import os
import time

import torch
from torch import nn


def mlp(width=16, batch_norm=True):
    middle = [nn.BatchNorm1d(width)] if batch_norm else []
    return nn.Sequential(nn.Linear(6, width), *middle, nn.ReLU(), nn.Linear(width, 3))


def regression():
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))


class Slow(nn.Module):
    """Takes a while for every batch."""

    def __init__(self, seconds):
        super().__init__()
        self.net, self.seconds = mlp(), seconds

    def forward(self, x):
        time.sleep(self.seconds)
        return self.net(x)


class Gated(nn.Module):
    """Stands still after some batches until a file is there."""

    def __init__(self, gate, batches):
        super().__init__()
        self.net, self.gate, self.batches = mlp(), gate, batches

    def forward(self, x):
        self.batches -= 1
        while self.batches < 0 and not os.path.exists(self.gate):
            time.sleep(0.02)
        return self.net(x)


class Uneven(Slow):
    """Slower on some ranks, or stuck there for good, after so many calls."""

    def __init__(self, seconds, rank, times, most=12):
        super().__init__(seconds)
        ranks = [str(r) for r in (rank if isinstance(rank, list) else [rank])]
        self.is_here = os.environ.get("OMPI_COMM_WORLD_RANK", "alone") in ranks
        self.times, self.calls, self.most = times, 0, most

    def forward(self, x):
        self.calls += 1
        if self.is_here and self.calls > self.most:
            time.sleep(self.seconds * (self.times - 1))
        return super().forward(x)


class Struck(Slow):
    """On one rank, sends its own process a signal in the middle of a cell, not its first.

    The others dawdle until that rank has begun, so that it is sure to get cells.
    """

    def __init__(self, seconds, rank, number, begun):
        super().__init__(seconds)
        self.is_here = os.environ.get("OMPI_COMM_WORLD_RANK") == str(rank)
        self.number, self.begun, self.calls = number, begun, 0

    def forward(self, x):
        self.calls += 1
        if self.is_here:
            open(self.begun, "w").close()
        elif self.calls > 12 and not os.path.exists(self.begun):
            time.sleep(0.2)
        if self.is_here and self.calls == 22:
            os.kill(os.getpid(), self.number)
        return super().forward(x)


class StopsWriting(Slow):
    """On one rank, stops the process for good in the middle of its first write."""

    def __init__(self, seconds, rank):
        super().__init__(seconds)
        if os.environ.get("OMPI_COMM_WORLD_RANK") == str(rank):
            from lsengine.store import Writer

            Writer._put = _stop


def _stop(writer, name, cells, values):
    import fcntl
    import signal

    file = open(writer._file.filename, "r+b")
    first = writer._datasets[name].id.get_offset() + values.itemsize * cells[0]
    fcntl.lockf(file, fcntl.LOCK_EX, values.nbytes, first)  # as MPI-IO does
    os.kill(os.getpid(), signal.SIGSTOP)


class Chance(nn.Module):
    """Drops out in evaluation mode, too."""

    def __init__(self):
        super().__init__()
        self.net = mlp()

    def forward(self, x):
        return nn.functional.dropout(self.net(x), training=True)


class Fragile(nn.Module):
    """Raises where its first weight has moved up."""

    def __init__(self, repaired, message="too far"):
        super().__init__()
        self.net, self.repaired, self.message = mlp(), repaired, message
        self.register_buffer("start", self.net[0].weight[0, 0].detach().clone())

    def forward(self, x):
        weight = float(self.net[0].weight[0, 0])
        if weight > self.start + 1e-3 and not os.path.exists(self.repaired):
            raise RuntimeError(self.message)
        return self.net(x)


class Hungry(nn.Module):
    """Asks for more memory than there is where batches are large."""

    def __init__(self, most):
        super().__init__()
        self.net, self.most = mlp(), most

    def forward(self, x):
        torch.empty(2**46 if len(x) > self.most else 1, dtype=torch.uint8)
        return self.net(x)


class Explosive(nn.Module):
    """Infinite or not a number away from the centre."""

    def __init__(self):
        super().__init__()
        self.net = mlp()

    def forward(self, x):
        return self.net(x) ** 3 * 1e200
'''

PROVENANCE = {"wall_s", "finished", "worker", "batch", "failure"}


def write_job(folder: Path, name: str = "job", **changes: Any) -> Path:
    """Write a complete small job and return its path; keyword arguments replace sections."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "testnets.py").write_text(NETWORKS)
    if not (folder / "data.npz").exists():
        rng = np.random.default_rng(0)
        arrays: dict[str, Any] = {}
        for split, count in (("train", 60), ("test", 31)):
            y = rng.integers(0, 3, count)
            arrays[f"x_{split}"] = (rng.normal(size=(count, 6)) + y[:, None]).astype(np.float32)
            arrays[f"y_{split}"] = y
        np.savez(folder / "data.npz", **arrays)
    document: dict[str, Any] = {
        "name": name,
        "model": {"arch": "testnets:mlp", "checkpoint": "centre.pt"},
        "data": {"dataset": "arrays", "root": "data.npz"},
        "directions": {
            "alpha": {"kind": "random", "seed": 1},
            "beta": {"kind": "random", "seed": 2},
        },
        "grid": {"alpha": [-1, 1, 7], "beta": [-0.5, 1, 4]},
        "batch_size": 16,
        "threads": 1,
        "device": "cpu",
        "output": f"{name}.h5",
    }
    document |= changes
    document = {k: v for k, v in document.items() if v is not None}
    if document["model"].get("checkpoint") == "centre.pt" and "arch" in document["model"]:
        _write_checkpoint(folder, document["model"], torch)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def _write_checkpoint(folder: Path, model: dict[str, Any], torch: Any) -> None:
    namespace: dict[str, Any] = {"__name__": "testnets"}
    exec(compile(NETWORKS, "testnets.py", "exec"), namespace)  # the same text as on disk
    torch.manual_seed(5)
    network = namespace[model["arch"].partition(":")[2]](**model.get("args", {}))
    for buffer_name, buffer in network.named_buffers():
        if buffer_name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    torch.save({"state_dict": network.state_dict(), "epoch": 3}, folder / "centre.pt")


def values(path: Path) -> dict[str, bytes]:
    """Return the bytes of every value dataset of a surface, directions included."""
    found: dict[str, bytes] = {}

    def visit(name: str, item: Any) -> None:
        no_values = {*PROVENANCE, "layout_digest"}
        if isinstance(item, h5py.Dataset) and name.rpartition("/")[2] not in no_values:
            found[name] = np.asarray(item[...]).tobytes()

    with h5py.File(path, "r", locking=False) as file:
        file.visititems(visit)
    return found
