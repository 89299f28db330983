"""Networks and losses whose value for a sample depends on the others, where it hardly shows."""

from __future__ import annotations

import numpy as np
import pytest

from lsengine.engine import spectrum
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
