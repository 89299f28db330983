"""What is checked and warned of before any work: losses, checkpoints, patterns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lsengine import models, store
from lsengine.engine import Options, evaluate
from lsengine.engine.prepare.checks import check_loss_accepts
from lsengine.errors import UsageError
from lsengine.job.loss import LossSpec
from lsengine.job.schema import ModelSpec
from lsengine.objective.builtin import cross_entropy
from tests.support import own_networks
from tests.support.datasets import load

RNG = np.random.default_rng(0)
LOGS = "nn.Sequential(nn.Linear(4, 3), nn.LogSoftmax(1))"
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


def test_a_network_that_does_not_fit_the_data_is_refused():
    """Wrong input channels are found by two samples, before any work."""
    network = models.build(
        ModelSpec(arch="resnet20"), channels=3, classes=10, size=(8, 8), job_folder=Path()
    )
    with pytest.raises(UsageError, match=r"model\.arch"):
        check_loss_accepts(network, load("digits"), cross_entropy, LossSpec(name="cross_entropy"))


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


BRIER = "def loss(o, t): return (o - t.view_as(o)).square().flatten(1).mean(1)\n"
HINGE = "def loss(o, t): return (1 - (2 * t.view_as(o) - 1) * o).clamp(min=0).flatten(1).mean(1)\n"


@pytest.mark.parametrize(
    ("network", "loss", "match"),
    [
        ("nn.Sequential(nn.Linear(4, 1), nn.Sigmoid())", "net:loss", "least at outputs of 0 and 1"),
        ("nn.Linear(4, 1)", "net:loss", "least at outputs of 0 and 1"),
    ],
)
def test_an_accuracy_of_outputs_that_are_no_logits_is_refused(tmp_path, network, loss, match):
    """Of one output for each answer: a Brier score takes probabilities, which are all positive."""
    x, y = RNG.normal(size=(30, 4)).astype(np.float32), RNG.integers(0, 2, 30)
    code = f"def make(): return {network}\n" + BRIER
    with pytest.raises(UsageError, match=rf"accuracy: .*{match}.*logits.*leave it out"):
        own_networks.run(own_networks.write(tmp_path, code, x, y, loss=loss))
    own_networks.run(own_networks.write(tmp_path, code, x, y, loss=loss, quantities=["loss"]))


def test_an_accuracy_of_numbers_is_refused_for_built_in_losses(tmp_path):
    """Whether 0.4 answers 1 is not said by a squared error of labels 0 and 1."""
    x, y = RNG.normal(size=(30, 4)).astype(np.float32), RNG.integers(0, 2, (30, 3))
    for loss in ("mse", "l1", {"name": "huber", "delta": 0.5}):
        job = own_networks.write(tmp_path, "def make(): return nn.Linear(4, 3)\n", x, y, loss=loss)
        with pytest.raises(UsageError, match="accuracy: the loss is least at outputs of 0 and 1"):
            own_networks.run(job)


def test_probabilities_of_classes_have_an_accuracy(tmp_path):
    """A Brier score of a softmax: the largest output is the answer, logit or not."""
    x, y = RNG.normal(size=(30, 4)).astype(np.float32), RNG.integers(0, 3, 30)
    code = """
def make(): return nn.Sequential(nn.Linear(4, 3), nn.Softmax(1))

def loss(o, t): return (o - F.one_hot(t, 3)).square().sum(1)
"""
    job = own_networks.write(tmp_path, code, x, y, loss="net:loss")
    found = own_networks.run(job)["train_accuracy"]
    expected = own_networks.naive(job, lambda o, t: (o.argmax(1) == t).double().mean())
    assert found.tolist() == pytest.approx(expected)


def test_logits_of_a_hinge_loss_have_an_accuracy(tmp_path):
    """Also where all of them lie from 0 to 1: the loss falls beyond."""
    x, y = np.ones((30, 2), np.float32), RNG.integers(0, 2, 30)
    job = own_networks.write(
        tmp_path, "def make(): return nn.Linear(2, 1)\n" + HINGE, x, y, loss="net:loss"
    )
    state = {"weight": torch.tensor([[0.2, 0.3]]), "bias": torch.tensor([0.1])}
    torch.save(state, tmp_path / "ck.pt")
    assert own_networks.run(job)["train_accuracy"][1] == pytest.approx(y.mean())


@pytest.mark.parametrize(
    ("loss", "y", "match"),
    [
        ("nll", RNG.normal(size=(30, 3)), "nll needs integer labels"),
        ({"name": "cross_entropy", "ignore_index": 1}, np.full((30, 3), 1 / 3), "ignore_index"),
        ("bce_with_logits", RNG.normal(size=(30, 3)), "targets from 0 to 1; train has"),
        ("bce_with_logits", RNG.integers(0, 3, (30, 3)), "targets from 0 to 1; train has 2"),
        ({"name": "cross_entropy", "weight": [1, 2]}, RNG.integers(0, 3, 30), "2 values for 3"),
        ("cross_entropy", np.tile(np.eye(2), (30, 2, 1)), "say class_axis: last"),
        ("bce_with_logits", RNG.integers(0, 2, 30), "not as many numbers per sample"),
    ],
)
def test_targets_that_a_built_in_loss_does_not_take_are_refused(tmp_path, loss, y, match):
    """Before any work, with what was found."""
    x = RNG.normal(size=(30, 4)).astype(np.float32)
    y = y.astype(np.float32) if y.dtype == float else y
    job = own_networks.write(tmp_path, "def make(): return nn.Linear(4, 3)\n", x, y, loss=loss)
    with pytest.raises(UsageError, match=match):
        own_networks.run(job)


def test_logits_for_nll_are_warned_of(tmp_path, capsys):
    """They are taken as they are, as torch does; log softmax is not warned of."""
    x, y = RNG.normal(size=(30, 4)).astype(np.float32), RNG.integers(0, 3, 30)
    for network, is_warned in (("nn.Linear(4, 3)", True), (LOGS, False)):
        code = f"def make(): return {network}\n"
        job = own_networks.write(tmp_path / str(is_warned), code, x, y, loss="nll")
        own_networks.run(job)
        said = capsys.readouterr().err
        assert ("nll takes logarithms of probabilities" in said) == is_warned
