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


RETURNING = """
from dataclasses import dataclass


@dataclass
class Output:  # as transformers have it
    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    past_key_values: object | None = None


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.last = nn.Embedding(7, 5), nn.Linear(5, 7)

    def forward(self, input_ids, labels=None, mask=None):
        logits = self.last(self.tokens(input_ids).cumsum(1).tanh())
        loss = None
        if labels is not None:
            shifted = F.pad(labels, (0, 1), value=-100)[:, 1:] if SHIFT else labels
            loss = F.cross_entropy(logits.flatten(0, 1), shifted.flatten(), label_smoothing=SMOOTH)
        return Output(loss=loss, logits=logits, past_key_values=object())


make = Model
"""


def _tokens_job(folder, shift, *, labels=None, smooth=0.0, **changes):
    """Return a job of a network that gets tokens and labels by name and returns its own loss."""
    code = RETURNING.replace("SHIFT", str(shift)).replace("SMOOTH", str(smooth))
    job = own_networks.write(folder, code, TOKENS, LABELS, **{"loss": "output", **changes})
    labels = np.where(PADDED < 0, -100, PADDED) if labels is None else labels
    np.savez(folder / "d.npz", input_ids_train=TOKENS, labels_train=labels)
    return job, torch.from_numpy(TOKENS), torch.from_numpy(labels)


@pytest.mark.parametrize("shift", [True, False])
def test_the_loss_of_the_network_is_that_of_the_whole_split(tmp_path, shift):
    """In any batches, with an error bar, and an accuracy of the labels that the outputs are for."""
    job, ids, labels = _tokens_job(tmp_path, shift, batch_size=7)
    found = own_networks.run(job)
    losses, shares = [], []
    for model in own_networks.networks_at_cells(job):
        output = model(ids, labels)
        losses.append(output.loss.item())
        right = []
        for row in range(30):
            for place in range(6 - shift):
                if (label := int(labels[row, place + shift])) != -100:
                    right.append(int(output.logits[row, place].argmax()) == label)
        shares.append(np.mean(right))
    np.testing.assert_allclose(found["train_loss"], losses, rtol=2e-6)
    np.testing.assert_allclose(found["train_accuracy"], shares, atol=1e-12)
    assert (found["train_loss_se"] > 0).all()


def test_a_loss_of_another_kind_is_right_where_batches_count_alike(tmp_path):
    """Of labels without gaps; else it is no mean over samples, and refused."""
    full = np.abs(PADDED)
    changes = {"batch_size": 6, "quantities": ["loss"], "smooth": 0.1}
    job, ids, labels = _tokens_job(tmp_path / "full", False, labels=full, **changes)
    found = own_networks.run(job)
    expected = [m(ids, labels).loss.item() for m in own_networks.networks_at_cells(job)]
    np.testing.assert_allclose(found["train_loss"], expected, rtol=2e-6)
    assert np.isnan(found["train_loss_se"]).all()
    job, *_ = _tokens_job(tmp_path / "gaps", False, **changes)
    with pytest.raises(UsageError, match=r"loss: output of .* not a mean over samples"):
        own_networks.run(job)


def test_built_in_losses_take_the_logits_of_named_outputs(tmp_path):
    """Of a network that gets no labels."""
    loss = {"name": "cross_entropy", "class_axis": "last"}
    job, ids, labels = _tokens_job(tmp_path, True, loss=loss)
    found = own_networks.run(job)
    expected = [
        F.cross_entropy(m(ids).logits.flatten(0, 1), labels.flatten()).item()
        for m in own_networks.networks_at_cells(job)
    ]
    np.testing.assert_allclose(found["train_loss"], expected, rtol=2e-6)


def test_a_network_that_gets_no_labels_has_no_loss_of_its_own(tmp_path):
    """The message says how they get there."""
    job = own_networks.write(tmp_path, LINEAR, X, LABELS, loss="output")
    with pytest.raises(UsageError, match="loss: output, but the network returns no loss"):
        own_networks.run(job)
