"""Targets, outputs and losses whose accuracy or meaning is in doubt: right, or refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lsengine.errors import UsageError
from tests.support import own_networks

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 6)).astype(np.float32)
Y = RNG.integers(0, 3, 40)
BINARY = RNG.integers(0, 2, 40)
ONE_HOT = np.eye(3, dtype=int)[Y]
LINEAR = "def make(): return nn.Linear(6, 3)\n"
SQUARE = "def make(): return nn.Sequential(nn.Linear(6, 9), nn.Unflatten(1, (3, 3)))\n"
SIGMOID = "def make(): return nn.Sequential(nn.Linear(6, 1), nn.Sigmoid(), nn.Flatten(0))\n"
WEIGHTS = "torch.tensor([1.0, 5.0, 20.0])"

REFUSED = {
    "classes on either axis": (
        SQUARE + "def loss(o, t): return F.cross_entropy(o, t, reduction='none').mean(1)",
        np.stack([Y, Y, Y], 1),
        r"accuracy: outputs of shape \[\d+, 3, 3\].*second axis and on the last one.*leave it out",
    ),
    "one-hot vectors": (
        LINEAR + "def loss(o, t): return F.cross_entropy(o, t.double(), reduction='none')",
        ONE_HOT,
        r"accuracy: every sample has one of 3 labels.*y\.argmax\(1\); leave it out",
    ),
    "one-hot vectors without a loss for them": (
        LINEAR,
        ONE_HOT,
        r"cross_entropy needs one class per sample.*y\.argmax\(1\)",
    ),
    "probabilities": (
        SIGMOID + "def loss(o, t): return F.binary_cross_entropy(o, t.double(), reduction='none')",
        BINARY,
        "accuracy: the loss takes outputs from 0 to 1 alone.*logits.*leave it out",
    ),
    "one output for three classes": (
        "def make(): return nn.Linear(6, 1)\n",
        Y,
        "the data need 3 on the axis after the samples.*numbers to predict as floats",
    ),
    "weights in another precision": (
        LINEAR + f"def loss(o, t): return F.cross_entropy(o, t, weight={WEIGHTS})",
        Y,
        r"both are in float64: bring numbers of your own to output\.dtype",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_in_doubt_is_refused_with_the_cure(tmp_path, name):
    """Before the first cell."""
    code, y, match = REFUSED[name]
    changes = {"loss": "net:loss"} if "def loss" in code else {}
    job = own_networks.write(tmp_path, code, X, y, **changes)
    with pytest.raises(UsageError, match=match):
        own_networks.run(job)


@pytest.mark.parametrize("loss", ["nn.CrossEntropyLoss", "nn.CrossEntropyLoss(reduction='none')"])
def test_a_loss_may_be_a_module_or_its_class(tmp_path, loss):
    """As torch has them."""
    job = own_networks.write(tmp_path, LINEAR + f"loss = {loss}\n", X, Y, loss="net:loss")
    found = own_networks.run(job)["train_loss"]
    np.testing.assert_allclose(found, own_networks.naive(job, F.cross_entropy), rtol=1e-6)


def test_outputs_with_axes_of_one_have_classes(tmp_path):
    """(N, C, 1, 1) against labels (N,)."""
    code = "def make(): return nn.Sequential(nn.Unflatten(1, (6, 1, 1)), nn.Conv2d(6, 3, 1))\n"
    job = own_networks.write(tmp_path, code, X, Y)
    found = own_networks.run(job)["train_loss"]
    expected = own_networks.naive(job, lambda o, t: F.cross_entropy(o.flatten(1), t))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("dtype", ["half", "bfloat16"])
def test_a_factory_in_16_bits_does_not_round_the_checkpoint(tmp_path, dtype, precision):
    """The numbers are those of the file in the job's precision."""
    state = {"weight": torch.randn(3, 6), "bias": torch.randn(3)}
    torch.save(state, tmp_path / "ck.pt")
    code = f"def make(): return nn.Linear(6, 3).{dtype}()\n"
    job = own_networks.write(tmp_path, code, X, Y, precision=precision)
    found = own_networks.run(job)["train_loss"]
    np.testing.assert_allclose(found, own_networks.naive(job, F.cross_entropy), rtol=1e-6)


TABLE = """
class Table(nn.Module):
    def __init__(self):
        super().__init__()
        self.ids, self.last = nn.Embedding(100, 4), nn.Linear(6, 3)

    def forward(self, x):
        return self.last(torch.cat([self.ids(x[:, 0].long() % 100), x[:, 1:]], 1))


make = Table
"""


@pytest.mark.parametrize(
    ("first", "precision", "match"),
    [(257, "bfloat16", "larger than 256, which 16 bits round"),
     (2**24 + 1, "float32", "beyond 16,777,216, which float32 rounds.*precision: float64")],
)  # fmt: skip
def test_ids_in_one_column_of_floats_are_not_rounded(tmp_path, first, precision, match):
    """A table with ids in one column and measurements in others."""
    x = np.column_stack([first + 2 * np.arange(40), X[:, 0], X[:, 1]])
    job = own_networks.write(tmp_path, TABLE, x, Y, precision=precision)
    with pytest.raises(UsageError, match=match):
        own_networks.run(job)
    job = own_networks.write(tmp_path, TABLE, x, Y, precision="float64")
    found = own_networks.run(job)["train_loss"]
    np.testing.assert_allclose(found, own_networks.naive(job, F.cross_entropy), rtol=1e-9)


def test_a_complex_parameter_may_be_one_number(tmp_path):
    """It moves like any other."""
    code = """
class Turned(nn.Module):
    def __init__(self):
        super().__init__()
        self.z, self.last = nn.Parameter(torch.tensor(1 + 2j)), nn.Linear(6, 3)

    def forward(self, x):
        return (self.last(x) * self.z).abs()


make = Turned
"""
    directions = {"alpha": {"kind": "random", "seed": 1, "ignore": []}}
    job = own_networks.write(tmp_path, code, X, Y, directions=directions)
    found = own_networks.run(job)["train_loss"]
    np.testing.assert_allclose(found, own_networks.naive(job, F.cross_entropy), rtol=1e-6)
