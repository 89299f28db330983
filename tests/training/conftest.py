"""Small trainings on the bundled digits."""

from __future__ import annotations

import multiprocessing

import numpy as np
import pytest
import yaml

from lsengine import job, store
from lsengine.models import checkpoint
from lsengine.training import resumable, training

TINY = {"arch": "mlp", "args": {"hidden": [16]}}

RESNET = {"arch": "resnet20", "args": {"width": 2}}

FORK = multiprocessing.get_context("fork")  # a process that need not import torch anew

BASE = {"epochs": 4, "save_every": 2, "lr": 0.05, "batch_size": 32, "noise": 0.1}


def write(where, name, *, model=TINY, dataset=None, **settings):
    """Write and load a job that trains on 200 digits."""
    content = {
        "model": model,
        "data": dataset or {"dataset": "digits", "subset": 200},
        "threads": 1,
        "device": "cpu",
        "train": {"output": f"out/{name}", **BASE, **settings},
    }
    path = where / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content))
    return job.load(path, command="train")


@pytest.fixture
def make_job(tmp_path):
    """Write and load a job in the test's folder."""
    return lambda *, name="a", **settings: write(tmp_path, name, **settings)


@pytest.fixture(autouse=True)
def _every_epoch(monkeypatch):
    """Keep the state of every epoch, so that short trainings can be resumed too."""
    monkeypatch.setattr(resumable, "_SAVE_EVERY_S", 0.0)


def run(loaded):
    """Train quietly."""
    return training.run(loaded, progress="none")


def folder(loaded):
    """Where a job's training goes."""
    return loaded.path(loaded.document.train.output)


def assert_same_training(one, other):
    """Checkpoints and history are equal bit for bit."""
    names = sorted(p.name for p in folder(one).glob("epoch_*.pt"))
    assert names == sorted(p.name for p in folder(other).glob("epoch_*.pt"))
    for name in names:
        a, b = (checkpoint.load(folder(j) / name) for j in (one, other))
        assert a.sha256 == b.sha256, name
    a, b = (store.read_history(folder(j) / "history.h5") for j in (one, other))
    for name, values in a.columns.items():
        np.testing.assert_array_equal(values, b.columns[name])
    np.testing.assert_array_equal(a.layer_norms, b.layer_norms)


MODULE = """
from torch import nn
class Viewing(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(256, 10)
    def forward(self, x):
        return self.linear(self.conv(x).view(len(x), -1))
def frozen():
    return Viewing().requires_grad_(False)
def narrow():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
def bad_loss(output, target):
    raise ValueError("no such loss")
"""
