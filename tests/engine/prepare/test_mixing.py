"""Networks and losses whose value for a sample depends on the others, where it hardly shows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lsengine import store
from lsengine.engine import spectrum
from lsengine.engine.prepare import mixing
from lsengine.errors import UsageError
from tests.support import own_networks

RNG = np.random.default_rng(5)
X = RNG.normal(size=(40, 6)).astype(np.float32)
NUMBERS = RNG.normal(size=40).astype(np.float32)
LABELS = RNG.integers(0, 3, 40)
SUM = """
def make(): return nn.Linear(6, 3)
def loss(o, t): return F.cross_entropy(o, t, reduction='sum')
"""


def test_a_loss_is_tried_with_outputs_that_differ(tmp_path):
    """A network that gives nearly one number hides that its loss is of all pairs."""
    code = """
class Net(nn.Linear):
    def forward(self, x):
        return 1 + 1e-7 * super().forward(x)


def make(): return Net(6, 1)
def loss(o, t): return ((o - t) ** 2).mean()
"""
    job = own_networks.write(tmp_path, code, X, NUMBERS, loss="net:loss")
    match = r"loss of varied outputs for .*not a mean over samples.*use output.view_as"
    with pytest.raises(UsageError, match=match):
        own_networks.run(job)


@pytest.mark.parametrize(
    "body",
    ["return (o - t).abs().sum(1)", "return F.nll_loss(o.log_softmax(1), t.argmax(1))"],
)
def test_a_mean_of_outputs_that_differ_stays_one(tmp_path, body):
    """What is no mistake is not refused."""
    code = f"def make(): return nn.Linear(6, 3)\ndef loss(o, t):\n    {body}\n"
    y = np.eye(3, dtype=np.float32)[LABELS]
    job = own_networks.write(tmp_path, code, X, y, loss="net:loss")
    assert np.isfinite(own_networks.run(job)["train_loss"]).all()


def test_batches_are_compared_away_from_the_centre_too(tmp_path):
    """Where all samples give the same at the centre, their statistics do not show there."""
    code = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(6, 3), nn.BatchNorm1d(3, track_running_stats=False)
        self.first.weight.data.fill_(0.1)

    def forward(self, x):
        return self.norm(F.relu(self.first(x) - 100 * (self.first.weight[0, 0] == 0.1)))


make = Net
"""
    job = own_networks.write(tmp_path, code, X, LABELS)
    with pytest.raises(UsageError, match=r"at alpha=-?0.5 beta=0: .*depends on the rest"):
        own_networks.run(job)


@pytest.mark.parametrize("kind", ["curvature", "direction"])
def test_the_loss_is_named_before_the_hessian(tmp_path, kind):
    """A sum has a Hessian that depends on batches, too; but that is no fault of the Hessian."""
    changes = {"quantities": ["loss", "curvature"]}
    if kind == "direction":
        changes = {"directions": {"alpha": {"kind": "hessian", "rank": 1}}}
    job = own_networks.write(tmp_path, SUM, X, LABELS, loss="net:loss", **changes)
    with pytest.raises(UsageError, match=r"^loss: net:loss .* not a mean over samples"):
        own_networks.run(job)


def test_a_spectrum_has_a_twin(tmp_path):
    """It refuses what an evaluation would."""
    job = own_networks.write(tmp_path, SUM, X, LABELS, loss="net:loss")
    with pytest.raises(UsageError, match=r"^loss: net:loss .* not a mean over samples"):
        spectrum.run(job, spectrum.Sizes(vectors=1, trace=0, density=0), world=None)


WEIGHTED = """
W = torch.tensor([1., 5., 20.], dtype=torch.float64)


def make(): return nn.Linear(6, 3)
def loss(o, t): return F.cross_entropy(o, t, weight=W)
"""
WEIGHTS = torch.tensor([1.0, 5.0, 20.0], dtype=torch.float64)
ROOT = """
def make(): return nn.Linear(6, 1)
def loss(o, t): return ((o - t) ** 2).mean().sqrt()
"""


def _weighted(output, target):
    return F.cross_entropy(output, target, weight=WEIGHTS)


AT_ONCE = {
    "class weights": (WEIGHTED, LABELS, _weighted),
    "an object with class weights": (
        "def make(): return nn.Linear(6, 3)\nW = torch.tensor([1., 5., 20.])\n"
        "loss = nn.CrossEntropyLoss(weight=W)  # def loss",
        LABELS,
        _weighted,
    ),
    "labels that are nearly all alike": (WEIGHTED, np.repeat([0, 2], [3998, 2]), _weighted),
    "ignored labels": (
        "def make(): return nn.Linear(6, 3)\n"
        "def loss(o, t): return F.cross_entropy(o, t, ignore_index=1)",
        LABELS,
        lambda o, t: F.cross_entropy(o, t, ignore_index=1),
    ),
    "the root of a mean": (ROOT, NUMBERS[:, None], lambda o, t: (o - t).square().mean().sqrt()),
}


@pytest.mark.parametrize("name", AT_ONCE)
def test_one_number_that_is_no_mean_is_taken_of_the_whole_split(tmp_path, capsys, name):
    """Whatever the batches; it has no error bar, and log and file say it."""
    code, y, loss = AT_ONCE[name]
    x, y = np.tile(X, (len(y) // 40, 1)), np.sort(y, axis=0)  # batches of one class each
    job = own_networks.write(tmp_path, code, x, y, loss="net:loss", batch_size=7)
    found = own_networks.run(job)
    np.testing.assert_allclose(found["train_loss"], own_networks.naive(job, loss), rtol=1e-6)
    assert np.isnan(found["train_loss_se"]).all()
    assert "it is taken of each split at once" in capsys.readouterr().err
    assert store.read_attributes(job.with_name("job.h5"))["loss_of"] == "split"


def test_hessians_need_a_mean(tmp_path):
    """A loss that can only be taken of a whole split has no curvature here."""
    changes = {"quantities": ["loss", "curvature"], "batch_size": 7}
    job = own_networks.write(tmp_path, WEIGHTED, X, np.sort(LABELS), loss="net:loss", **changes)
    with pytest.raises(UsageError, match=r"^loss: net:loss .* not a mean over samples"):
        own_networks.run(job)


def test_outputs_that_do_not_fit_into_memory_are_not_taken_at_once(tmp_path, monkeypatch):
    """The refusal says how much they would be."""
    monkeypatch.setattr(mixing, "_SHARE", 10**18)
    job = own_networks.write(tmp_path, WEIGHTED, X, np.sort(LABELS), loss="net:loss", batch_size=7)
    with pytest.raises(UsageError, match=r"not a mean over samples.*all 40 outputs.* GiB"):
        own_networks.run(job)
