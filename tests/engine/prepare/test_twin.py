"""The naive twin: what it refuses by itself, before any engine is asked."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lsengine.errors import UsageError
from tests.support import own_networks

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 6)).astype(np.float32)
Y = np.sort(RNG.integers(0, 3, 40))
LINEAR = "def make(): return nn.Linear(6, 3)\n"
WEIGHTS = "W = torch.tensor([1., 5., 20.], dtype=torch.float64)\n"

REFUSED = {
    "a sum": (
        LINEAR + "def loss(o, t): return F.cross_entropy(o, t, reduction='sum')",
        "not a mean over samples",
    ),
    "statistics of the batch in the loss": (
        LINEAR + "def loss(o, t): return ((o - o.mean(0)) ** 2).mean(1)",
        "not a mean over samples",
    ),
    "broadcast targets": (
        LINEAR + "def loss(o, t): return (o[:, :1] - t) ** 2",
        r"returned shape \[2, 2\]",
    ),
    "a loss per output": (
        LINEAR + "def loss(o, t): return o ** 2",
        r"returned shape \[2, 3\]",
    ),
    "a batch norm without statistics": (
        "def make(): return nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3,"
        " track_running_stats=False))\n",
        "depends on the rest of its batch.*batch_size",
    ),
    "noise": (
        """
class Noisy(nn.Linear):
    def forward(self, x):
        return super().forward(x + torch.randn_like(x))


def make(): return Noisy(6, 3)
""",
        "two evaluations of the same weights differ",
    ),
    "dropout": (
        """
class Dropping(nn.Linear):
    def forward(self, x):
        return F.dropout(super().forward(x), 0.5, training=True)


def make(): return Dropping(6, 3)
""",
        "two evaluations of the same weights differ",
    ),
    "a state outside the checkpoint": (
        """
class Outside(nn.Linear):
    def __init__(self):
        super().__init__(6, 3)
        self.factor = 1 + torch.rand(())

    def forward(self, x):
        return self.factor * super().forward(x)


def make(): return Outside()
""",
        "two calls of net:make.*not in the checkpoint",
    ),
    "adapters that are merged": (
        """
class LoRA(nn.Module):
    def __init__(self):
        super().__init__()
        self.base, self.a = nn.Linear(6, 3), nn.Parameter(torch.randn(2, 6))
        self.b = nn.Parameter(torch.randn(3, 2))
        self.merged = None

    def train(self, mode=True):
        self.merged = None if mode else (self.base.weight + self.b @ self.a).detach()
        return super().train(mode)

    def forward(self, x):
        return F.linear(x, self.merged if self.merged is not None else self.base.weight)


def make(): return LoRA()
""",
        "no output of .* changes.*merged",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_right_is_refused_with_the_cause(tmp_path, name):
    """One message that names the kind of mistake, before the first cell."""
    code, match = REFUSED[name]
    changes = {"loss": "net:loss"} if "def loss" in code else {}
    x, y = X, Y.astype(np.float32) if name == "broadcast targets" else Y
    job = own_networks.write(tmp_path, code, x, y, **changes)
    with pytest.raises(UsageError, match=match):
        own_networks.run(job)


def test_a_batch_size_that_is_meant_is_obeyed(tmp_path, capsys):
    """Outputs that depend on the batch are those of the job's batches, and it is said."""
    code = REFUSED["a batch norm without statistics"][0]
    job = own_networks.write(tmp_path, code, X, Y, batch_size=20)
    found = own_networks.run(job)["train_loss"]
    assert "depends on the rest of its batch" in capsys.readouterr().err

    def loss_of_half(half):
        def loss(output, target):
            return F.cross_entropy(output, target)

        return own_networks.naive(job, loss, samples=half)

    halves = [loss_of_half(slice(0, 20)), loss_of_half(slice(20, 40))]
    np.testing.assert_allclose(found, np.mean(halves, axis=0), rtol=1e-5)


def test_weights_of_samples_make_a_weighted_mean(tmp_path):
    """Over all samples, with the error bar of a ratio, whatever the batches."""
    code = (
        LINEAR + WEIGHTS + ("def loss(o, t): return F.cross_entropy(o, t, reduction='none'), W[t]")
    )
    job = own_networks.write(tmp_path, code, X, Y, loss="net:loss", batch_size=7)
    found = own_networks.run(job)
    weights = torch.tensor([1.0, 5.0, 20.0]).double()
    expected = own_networks.naive(job, lambda o, t: F.cross_entropy(o, t, weight=weights))
    np.testing.assert_allclose(found["train_loss"], expected, rtol=1e-6)

    def bar(output, target):
        each, w = F.cross_entropy(output, target, reduction="none"), weights[target]
        mean = (each * w).sum() / w.sum()
        return ((w * (each - mean)).square().sum() * 40 / 39).sqrt() / w.sum()

    np.testing.assert_allclose(found["train_loss_se"], own_networks.naive(job, bar), rtol=1e-5)


def test_samples_of_weight_0_count_nowhere(tmp_path):
    """Neither their loss, though it be no number, nor their answer."""
    code = LINEAR + (
        "def loss(o, t):\n    each = F.cross_entropy(o, t, reduction='none')\n"
        "    return each.where(t != 1, torch.nan), t != 1"
    )
    job = own_networks.write(tmp_path, code, X, Y, loss="net:loss", batch_size=7)
    found = own_networks.run(job)
    expected = own_networks.naive(job, lambda o, t: F.cross_entropy(o, t, ignore_index=1))
    np.testing.assert_allclose(found["train_loss"], expected, rtol=1e-6)
    right = own_networks.naive(job, lambda o, t: (o.argmax(1) == t)[t != 1].double().mean())
    np.testing.assert_allclose(found["train_accuracy"], right)


def test_the_cure_for_shapes_is_named_only_where_they_are_the_cause(tmp_path):
    """A loss that takes the only output itself broadcasts nothing."""
    code = "def make(): return nn.Linear(6, 1)\n"
    code += "def loss(o, t): return ((o[:, 0] - t) ** 2).sum()"
    job = own_networks.write(tmp_path, code, X, X[:, 0], loss="net:loss")
    with pytest.raises(UsageError, match=r"not a mean over samples.*weighted mean$"):
        own_networks.run(job)


def test_a_loss_that_is_a_mean_bears_any_batch_size(tmp_path):
    """Means of batches are compared as one mean."""
    code = LINEAR + "def loss(o, t): return F.cross_entropy(o, t)"
    job = own_networks.write(tmp_path, code, X, Y, loss="net:loss", batch_size=7)
    found = own_networks.run(job)["train_loss"]
    np.testing.assert_allclose(found, own_networks.naive(job, F.cross_entropy), rtol=1e-6)


def test_the_precision_is_that_of_the_numbers_that_move(tmp_path):
    """A first parameter of whole numbers says nothing about the inputs."""
    code = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.order = nn.Parameter(torch.arange(6).flip(0), requires_grad=False)
        self.last = nn.Linear(6, 3)

    def forward(self, x):
        return self.last(x[:, self.order])


make = Net
"""
    job = own_networks.write(tmp_path, code, X, Y)
    found = own_networks.run(job)["train_loss"]
    np.testing.assert_allclose(found, own_networks.naive(job, F.cross_entropy), rtol=1e-5)


def test_curvature_of_a_network_that_leaves_evaluation_mode_is_refused(tmp_path):
    """A layer in training mode after a forward pass is named."""
    code = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(6, 3), nn.BatchNorm1d(3)

    def forward(self, x):
        self.norm.train()
        return self.norm(self.first(x))


make = Net
"""
    changes = {"quantities": ["loss", "curvature"], "batch_size": 40}
    job = own_networks.write(tmp_path, code, X, Y, **changes)
    with pytest.raises(UsageError, match=r"norm is in training mode|depends on the rest"):
        own_networks.run(job)
