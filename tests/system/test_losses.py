"""Surfaces of built-in losses against torch's means over whole splits, at every cell."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lsengine import store
from lsengine.errors import UsageError
from tests.support import own_networks

RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 4)).astype(np.float32)
TOKENS = RNG.integers(0, 7, (30, 6))
LABELS = RNG.integers(0, 3, 30)
PADDED = np.where(np.arange(6) < RNG.integers(1, 7, (30, 1)), RNG.integers(0, 7, (30, 6)), -1)
LINEAR = "def make(): return nn.Linear(4, 3)\n"
ONE = "def make(): return nn.Linear(4, 1)\n"
LOGS = "def make(): return nn.Sequential(nn.Linear(4, 3), nn.LogSoftmax(1))\n"
MODEL = """
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.last = nn.Embedding(7, 5), nn.Linear(5, 7)

    def forward(self, x):
        return self.last(self.tokens(x).cumsum(1).tanh())


make = Model
"""
WEIGHTS = [0.5, 2.0, 1.0]


def _weights():
    return torch.tensor(WEIGHTS, dtype=torch.float64)


def _tokens(o, t):
    return F.cross_entropy(o.flatten(0, 1), t.flatten(), ignore_index=-1, label_smoothing=0.1)


def _binary(o, t):
    weight = torch.tensor(2.5, dtype=torch.float64)
    return F.binary_cross_entropy_with_logits(o[:, 0], t.double(), pos_weight=weight)


def _known(o, t):
    known = t != 2
    return (o.argmax(1) == t)[known].double().mean()


def _right_tokens(o, t):
    return (o.argmax(-1) == t)[t != -1].double().mean()


CASES = {
    "weights of classes": (
        LINEAR, X, LABELS, {"name": "cross_entropy", "weight": WEIGHTS},
        lambda o, t: F.cross_entropy(o, t, weight=_weights()),
        lambda o, t: (o.argmax(1) == t).double().mean(),
    ),
    "weights, smoothing and a label that is ignored": (
        LINEAR, X, LABELS,
        {"name": "cross_entropy", "weight": WEIGHTS, "label_smoothing": 0.2, "ignore_index": 2},
        lambda o, t: F.cross_entropy(
            o, t, weight=_weights(), label_smoothing=0.2, ignore_index=2
        ),
        _known,
    ),
    "logarithms of probabilities": (
        LOGS, X, LABELS, {"name": "nll", "weight": WEIGHTS},
        lambda o, t: F.nll_loss(o, t, weight=_weights()),
        lambda o, t: (o.argmax(1) == t).double().mean(),
    ),
    "tokens with classes last and padding": (
        MODEL, TOKENS, PADDED,
        {"name": "cross_entropy", "ignore_index": -1, "label_smoothing": 0.1},
        _tokens, _right_tokens,
    ),
    "one logit": (
        ONE, X, LABELS // 2, {"name": "bce_with_logits", "pos_weight": 2.5}, _binary,
        lambda o, t: ((o[:, 0] > 0) == (t > 0)).double().mean(),
    ),
    "several logits": (
        LINEAR, X, RNG.integers(0, 2, (30, 3)), "bce_with_logits",
        lambda o, t: F.binary_cross_entropy_with_logits(o, t.double()),
        lambda o, t: ((o > 0) == (t > 0)).double().mean(),
    ),
    "soft answers": (
        LINEAR, X, RNG.uniform(size=(30, 3)).astype(np.float32), "bce_with_logits",
        F.binary_cross_entropy_with_logits, None,
    ),
    "distances": (
        LINEAR, X, RNG.normal(size=(30, 3)).astype(np.float32), "l1", F.l1_loss, None,
    ),
    "bounded distances": (
        LINEAR, X, RNG.normal(size=(30, 3)).astype(np.float32), {"name": "huber", "delta": 0.5},
        lambda o, t: F.huber_loss(o, t, delta=0.5), None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_surface_of_a_built_in_loss_is_torchs_mean(tmp_path, name):
    """In batches of 7 of 30 samples, and so is its accuracy over what counts."""
    code, x, y, loss, function, accuracy = CASES[name]
    job = own_networks.write(tmp_path, code, x, y, loss=loss, batch_size=7, cells_per_pass="auto")
    found = own_networks.run(job)
    np.testing.assert_allclose(
        found["train_loss"], own_networks.naive(job, function), rtol=2e-6, atol=1e-7
    )
    assert (found["train_loss_se"] > 0).all()
    if accuracy is not None:
        np.testing.assert_allclose(found["train_accuracy"], own_networks.naive(job, accuracy))


def test_as_many_classes_as_tokens_need_the_axis(tmp_path):
    """It is refused with the key, and right with it; the file then says which."""
    x, y = np.concatenate([TOKENS, TOKENS[:, :1]], 1), RNG.integers(0, 7, (30, 7))
    with pytest.raises(UsageError, match=r"second axis and on the last one.*class_axis: last"):
        own_networks.run(own_networks.write(tmp_path, MODEL, x, y))
    loss = {"name": "cross_entropy", "class_axis": "last"}
    job = own_networks.write(tmp_path, MODEL, x, y, loss=loss)
    found = own_networks.run(job)
    expected = own_networks.naive(job, lambda o, t: F.cross_entropy(o.movedim(-1, 1), t))
    np.testing.assert_allclose(found["train_loss"], expected, rtol=2e-6)
    right = own_networks.naive(job, lambda o, t: (o.argmax(-1) == t).double().mean())
    np.testing.assert_allclose(found["train_accuracy"], right)
    assert '"class_axis": "last"' in store.read_attributes(job.with_name("job.h5"))["identity"]


def test_labels_that_are_all_ignored_are_refused(tmp_path):
    """There is no mean of nothing."""
    loss = {"name": "cross_entropy", "ignore_index": 1}
    job = own_networks.write(tmp_path, LINEAR, X, np.ones(30, int), loss=loss)
    with pytest.raises(UsageError, match="train has no label but"):
        own_networks.run(job)
    loss = {"name": "cross_entropy", "weight": [0, 1, 1]}
    job = own_networks.write(tmp_path, LINEAR, X, np.zeros(30, int), loss=loss)
    with pytest.raises(UsageError, match="weights of all 30 train samples are 0"):
        own_networks.run(job)
