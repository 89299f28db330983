"""Objectives of one's own: what they may return, and what is refused."""

from __future__ import annotations

import textwrap

import pytest
import torch

from lsengine.errors import UsageError
from lsengine.objective.criterion import OwnObjective, own_objective
from lsengine.objective.summary import Summary

ONES, ROWS = torch.ones(4), torch.ones(4, 3)


def _measured(result, samples=4):
    return OwnObjective("mine:judge", lambda *_: None).measured(result, samples)


def test_losses_alone_in_a_pair_and_by_name_are_the_same():
    """In float64, without a history; a metric may be of any real type."""
    values, weights = torch.arange(4.0, requires_grad=True), torch.tensor([1, 0, 2, 1])
    alone, pair = _measured(values).losses, _measured((values, weights)).losses
    named = _measured({"hit": values > 1, "loss": (values, weights)})
    assert alone.values.tolist() == pair.values.tolist() == [0, 1, 2, 3]
    assert alone.weights is None
    assert pair.weights.tolist() == named.losses.weights.tolist() == [1, 0, 2, 1]
    assert named.metrics["hit"].values.tolist() == [0, 0, 1, 1]
    for tensor in (alone.values, pair.weights, named.metrics["hit"].values):
        assert tensor.dtype == torch.float64
        assert not tensor.requires_grad


def test_a_hessian_is_of_the_losses_with_their_history():
    """With weights where there are some; metrics do not matter there."""
    own = OwnObjective("mine:judge", lambda *_: None)
    values = torch.arange(4.0, requires_grad=True)
    assert own.loss({"loss": values, "hit": None}).requires_grad
    assert [t.tolist() for t in own.loss([values, ONES])] == [[0, 1, 2, 3], [1, 1, 1, 1]]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (ONES.mean(), 'returned one number as "loss"; expected one number per sample'),
        ({"loss": ONES, "hit": ONES.mean()}, 'returned one number as "hit"'),
        (1.0, "returned float"),
        ([1.0, 1.0, 1.0], "a list of 3"),
        (ONES[:3], r'shape \[3\] for 4 samples as "loss"'),
        (ROWS, r"\.flatten\(1\)\.mean\(1\)"),
        (ONES.to(torch.complex64), "complex64"),
        ((ONES, ONES[:2]), r"weights of shape \[2\] for 4 samples"),
        ((ONES, 1.0), "weights of float"),
        ((ONES, -ONES), "weights that are negative, NaN or infinite"),
        ((ONES, ONES * torch.nan), "weights that are negative, NaN or infinite"),
        ({"hit": ONES}, 'a dict with hit; one "loss" is needed'),
        ({}, 'a dict with nothing; one "loss" is needed'),
        ({"loss": ONES, "my metric": ONES}, "which is no name"),
        ({"loss": ONES, 3: ONES}, "which is no name"),
        ({"loss": ONES, "hit_se": ONES}, "standard errors"),
        (Summary(ROWS, sum), "Summary"),
        ({"loss": ONES, "ece": Summary(ONES, sum)}, r"a Summary of shape \[4\]"),
        ({"loss": ONES, "ece": Summary(ROWS, sum, -ONES)}, "negative"),
    ],
)
def test_anything_else_is_refused(result, message):
    """The message says which of the names, what it is, and what is expected."""
    with pytest.raises(UsageError, match=message) as refusal:
        _measured(result)
    assert str(refusal.value).startswith("objective: mine:judge returned")


def test_all_batches_have_the_same_names():
    """In whatever order."""
    own = OwnObjective("mine:judge", lambda *_: None)
    own.measured({"loss": ONES, "hit": ONES}, 4)
    own.measured({"hit": ONES, "loss": ONES}, 4)
    with pytest.raises(UsageError, match="loss, hit for a batch, and loss for another"):
        own.measured({"loss": ONES}, 4)


def test_an_objective_is_looked_for_beside_the_job(tmp_path):
    """It is a function, or a class that is made once."""
    (tmp_path / "judged.py").write_text(
        textwrap.dedent("""
        def function(network, batch):
            return network(batch)

        class Kept:
            def __call__(self, network, batch):
                return 2 * network(batch)
        """)
    )
    for name, factor in (("function", 1), ("Kept", 2)):
        own = own_objective(f"judged:{name}", job_folder=tmp_path)
        assert own.call(torch.neg, ONES).tolist() == [-factor] * 4
    with pytest.raises(UsageError, match='objective: no "other" in'):
        own_objective("judged:other", job_folder=tmp_path)
