"""From a job to its network."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lsengine import job
from lsengine.engine.prepare import loading
from lsengine.errors import UsageError
from tests.support import own_networks


def test_a_lazy_network_may_differentiate_in_forward(tmp_path):
    """Its shapes come from a call that records gradients."""
    code = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.LazyLinear(4), nn.Linear(4, 3)

    def forward(self, x):
        h = self.first(x).tanh()
        return self.last(torch.autograd.grad(h.square().sum(), h, create_graph=True)[0])


make = Net
"""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 5)).astype(np.float32), rng.integers(0, 3, 20)
    (tmp_path / "net.py").write_text(own_networks.HEADER + code)
    model = own_networks.module(tmp_path).make()
    model(torch.zeros(2, 5))
    torch.save(model.state_dict(), tmp_path / "ck.pt")
    found = own_networks.run(own_networks.write(tmp_path, code, x, y))["train_loss"]
    w, b, v, c = (p.detach().double().numpy() for p in model.parameters())
    logits = 2 * np.tanh(x @ w.T + b) @ v.T + c
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    assert found[1] == pytest.approx(-logs[np.arange(20), y].mean(), rel=1e-5)


def test_an_objective_does_without_targets(tmp_path):
    """A loss does not; both see the same inputs."""
    code = "make = lambda: nn.Linear(3, 1)\njudge = lambda network, x: network(x)[:, 0]"
    x = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    named = {"quantities": ["loss"], "objective": "net:judge"}
    path = own_networks.write(tmp_path, code, x, np.zeros(6), **named)
    np.savez(tmp_path / "d.npz", x_train=x)
    split = loading.load(job.load(path)).dataset.splits["train"]
    np.testing.assert_array_equal(split.x.numpy(), x)
    assert split.y is None
    of_loss = own_networks.write(tmp_path, code, x, np.zeros(6))
    np.savez(tmp_path / "d.npz", x_train=x)
    with pytest.raises(UsageError, match="has x_train, but no y_train"):
        loading.load(job.load(of_loss))
