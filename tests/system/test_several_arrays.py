"""Batches of several arrays, from a table to the surface, against a plain loop over its rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.support import own_networks

CODE = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.last = nn.Embedding(20, 8), nn.Linear(9, 3)

    def forward(self, ids, mask, size):
        h = (self.embedding(ids) * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return self.last(torch.cat([h, size[:, None]], 1).tanh())


make = Net


def judge(network, batch):
    inputs = {name: batch[name] for name in ("ids", "mask", "size")}
    losses = F.cross_entropy(network(**inputs), batch["label"], reduction="none")
    return {"loss": losses, "length": batch["mask"].sum(1)}
"""


def test_a_table_with_lists_of_different_lengths_is_evaluated(tmp_path):
    """By names, in order, and by an objective: as each row by itself, without any padding."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 7, 40)
    columns = {
        "ids": [rng.integers(1, 20, n).tolist() for n in lengths],
        "size": rng.normal(size=40).astype("f4"),
        "label": rng.integers(0, 3, 40),
    }
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    ways = {
        "by names": ({}, {}),
        "in order": ({"inputs": ["ids", "mask", "size"]}, {}),
        "judged": ({}, {"objective": "net:judge", "quantities": ["loss"]}),
    }
    found = {}
    for way, (args, more) in ways.items():
        source = {"dataset": "arrays", "root": "rows.parquet", "args": {"pad": 0, **args}}
        changes = {"data": {**source, "splits": ["train"]}, "batch_size": 7, **more}
        job = own_networks.write(tmp_path, CODE, 0, 0, **changes)
        found[way] = own_networks.run(job)
        (tmp_path / "job.h5").unlink()
    model = own_networks.wide(own_networks.module(tmp_path).make())
    model.load_state_dict(torch.load(tmp_path / "ck.pt"))
    losses = []
    for ids, size, label in zip(*columns.values(), strict=True):
        row = torch.tensor([ids]), torch.ones(1, len(ids)), torch.tensor([size]).double()
        losses.append(float(F.cross_entropy(model(*row), torch.tensor([label])).detach()))
    for surface in found.values():
        assert surface["train_loss"][1] == pytest.approx(np.mean(losses), rel=1e-6)
        error = np.std(losses, ddof=1) / np.sqrt(40)
        assert surface["train_loss_se"][1] == pytest.approx(error, rel=1e-6)
    assert found["in order"]["train_loss"].tobytes() == found["by names"]["train_loss"].tobytes()
    np.testing.assert_array_equal(found["judged"]["train_length"], [lengths.mean()] * 3)
