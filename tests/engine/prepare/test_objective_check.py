"""Objectives that do not fit, and the quantities of those that do."""

from __future__ import annotations

import numpy as np
import pytest

from lsengine.engine import prepare
from lsengine.errors import UsageError
from lsengine.job import load
from tests.support.own_networks import write

CODE = """
import lsengine
calls = 0

def make():
    return nn.Linear(3, 2)

def named(network, batch):
    x, y = batch
    logits = network(x)
    return {
        "loss": F.cross_entropy(logits, y, reduction="none"),
        "brier": (logits.softmax(1) - F.one_hot(y, 2)).square().sum(1),
        "norm": lsengine.Summary(logits.square(), lambda m: m.sum().sqrt()),
        "accuracy": logits.argmax(1) == y,
    }

def alone(network, batch):
    return named(network, batch)["loss"]

def scalar(network, batch):
    return alone(network, batch).mean()

def chance(network, batch):
    return alone(network, batch) + torch.rand(())

def detached(network, batch):
    return alone(network, batch).detach()

def odd(network, batch):
    return network(batch)
"""
X, Y = np.random.default_rng(0).normal(size=(12, 3)).astype("f"), np.arange(12) % 2


def _check(folder, objective, **changes):
    job = load(write(folder, CODE, X, Y, objective=f"net:{objective}", **changes))
    return prepare.check(job, prepare.load(job))


def test_metrics_become_quantities_in_the_order_of_the_objective(tmp_path):
    """With error bars, but for summaries; ``accuracy`` is a name like others."""
    names = ("brier", "brier_se", "norm", "accuracy", "accuracy_se")
    assert _check(tmp_path, "named") == names
    assert _check(tmp_path, "named", batch_size=5) == names
    assert _check(tmp_path, "alone") == ()
    assert _check(tmp_path, "alone", quantities=["loss", "curvature"]) == ()


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ("scalar", 'net:scalar returned one number as "loss"; expected one number per sample'),
        ("chance", "two calls of net:chance .*torch.manual_seed"),
        ("odd", r"net:odd fails for a batch of 8 samples \(0 \[8, 3\], 1 \[8\]\): TypeError: .*"),
        ("missing", 'no "missing" in'),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(tmp_path, objective, message):
    """With what was found and what to do."""
    with pytest.raises(UsageError, match=rf"^objective: {message}"):
        _check(tmp_path, objective)


@pytest.mark.parametrize(
    "changes",
    [{"quantities": ["loss", "curvature"]}, {"directions": {"alpha": {"kind": "hessian"}}}],
)
def test_curvature_needs_a_gradient(tmp_path, changes):
    """A return of a policy in an environment has none."""
    with pytest.raises(UsageError, match=r"no gradient by the network's parameters.* leave out"):
        _check(tmp_path, "detached", **changes)
    assert _check(tmp_path, "detached") == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "mse"}, "loss: an objective has a loss of its own; leave out loss or objective"),
        ({"quantities": ["loss", "accuracy"]}, 'let the objective return a metric "accuracy"'),
        ({"objective": "alone"}, 'objective: got "alone"; allowed: module:function'),
    ],
)
def test_keys_that_do_not_go_with_an_objective_are_refused(tmp_path, changes, message):
    """A loss, and the accuracy of a loss."""
    with pytest.raises(UsageError, match=message):
        load(write(tmp_path, CODE, X, Y, **{"objective": "net:alone"} | changes))
