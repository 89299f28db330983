"""What is checked and warned of before any work: losses, checkpoints, patterns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lsengine import models, store
from lsengine.engine import Options, evaluate
from lsengine.engine.prepare.loading import check_loss_accepts
from lsengine.errors import UsageError
from lsengine.job.schema import ModelSpec
from lsengine.objective.losses import cross_entropy
from tests.support import own_networks
from tests.support.datasets import load

LOSSES = """
from torch.nn import functional as F


def each(output, target):
    return F.cross_entropy(output, target, reduction="none")


def mean(output, target):
    return F.cross_entropy(output, target)


def total(output, target):
    return F.cross_entropy(output, target, reduction="sum")


def half(output, target):
    return each(output, target)[::2]
"""


@pytest.fixture
def job_with(make_job, tmp_path):
    """Return a function that makes a job with one of the losses above."""
    (tmp_path / "ownlosses.py").write_text(LOSSES)
    return lambda name: make_job(name, loss=f"ownlosses:{name}")


def _evaluated(job):
    assert evaluate([job], Options(progress="none"), world=None) == 0
    return store.read(job.with_suffix(".h5")).quantities


def test_a_loss_per_sample_and_its_mean_are_the_same_loss(job_with):
    """Equal means; only the loss per sample has an error bar, the other's is unknown."""
    each, mean = _evaluated(job_with("each")), _evaluated(job_with("mean"))
    np.testing.assert_allclose(each["train_loss"], mean["train_loss"], rtol=1e-12)
    assert (each["train_loss_se"] > 0).all()
    assert np.isnan(mean["train_loss_se"]).all()


def test_a_sum_is_not_taken_for_a_mean(job_with):
    """A loss that adds up its samples is refused with both numbers and what to return."""
    with pytest.raises(UsageError, match=r"ownlosses:total of .* not a mean over samples"):
        _evaluated(job_with("total"))


def test_as_many_losses_as_samples_are_needed(job_with):
    """A loss for every other sample is refused with both counts."""
    with pytest.raises(UsageError, match=r"it returned shape \[1\] for outputs of shape \[2, 3\]"):
        _evaluated(job_with("half"))


def test_cross_entropy_of_real_targets_is_refused(make_job, tmp_path):
    """A forgotten loss of a regression is no negative cross-entropy, but one message."""
    rng = np.random.default_rng(0)
    arrays = {
        f"{kind}_{split}": rng.normal(size=(20, width)).astype(np.float32)
        for split in ("train", "test")
        for kind, width in (("x", 6), ("y", 2))
    }
    np.savez(tmp_path / "real.npz", **arrays)
    job = make_job(
        "real",
        model={"arch": "testnets:regression", "checkpoint": "centre.pt"},
        data={"dataset": "arrays", "root": "real.npz"},
        quantities=["loss"],
    )
    with pytest.raises(UsageError, match="cross_entropy needs integer labels"):
        _evaluated(job)


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


def test_a_network_that_does_not_fit_the_data_is_refused():
    """Wrong input channels are found by two samples, before any work."""
    network = models.build(
        ModelSpec(arch="resnet20"), channels=3, classes=10, size=(8, 8), job_folder=Path()
    )
    with pytest.raises(UsageError, match=r"model\.arch"):
        check_loss_accepts(network, load("digits"), cross_entropy, "cross_entropy")


def test_an_undefined_checkpoint_is_warned_of(make_job, tmp_path, capsys):
    """A parameter that is NaN is named; the surface is what it is, and no check has passed."""
    job = make_job(directions={"alpha": {"kind": "random"}}, grid={"alpha": [0, 1, 2]})
    content = torch.load(tmp_path / "centre.pt")
    content["state_dict"]["0.weight"][0, 0] = float("nan")
    torch.save(content, tmp_path / "centre.pt")
    assert evaluate([job], Options(progress="none"), world=None) == 0
    text = capsys.readouterr().err
    assert "model.checkpoint: 0.weight holds NaN" in text
    assert "check passed" not in text
