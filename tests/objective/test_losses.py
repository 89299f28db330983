"""Built-in losses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lsengine.data.dataset import NO_LABEL
from lsengine.errors import UsageError
from lsengine.objective.losses import OwnLoss, class_axis_of, hits, loss_function, of_samples


def test_mse_of_classes_is_against_one_hot_vectors():
    """Integer targets become one-hot vectors; real ones are taken as they are."""
    mse = loss_function("mse", job_folder=Path())
    output = torch.tensor([[0.2, 0.8], [1.0, 0.0]], dtype=torch.float64)
    assert mse(output, torch.tensor([1, 1])).tolist() == pytest.approx([0.04, 1.0])
    assert float(mse(output, output).sum()) == 0


@pytest.mark.parametrize(
    ("output", "targets"), [((4, 6, 5), (4, 6)), ((4, 2, 3, 5), (4, 2, 3)), ((4, 1, 5), (4, 1))]
)
def test_answers_on_the_last_axis_are_those_of_the_second_one(output, targets):
    """Outputs (N, T, K), as of a transformer, with labels (N, T), some of them none."""
    logits, labels = torch.randn(output), torch.randint(0, 5, targets)
    labels[:2, 0] = NO_LABEL
    found = hits(logits, labels)
    assert torch.equal(found, hits(logits.movedim(-1, 1), labels))
    for row in range(4):
        pairs = zip(logits[row].reshape(-1, 5), labels[row].flatten(), strict=True)
        right = [int(o.argmax()) == int(t) for o, t in pairs if int(t) != NO_LABEL]
        assert float(found[row]) == pytest.approx(sum(right) / max(1, len(right)))


def test_answers_on_an_axis_that_may_be_two_are_refused():
    """Unless the loss says which; a loss of one's own may, too."""
    logits, labels = torch.randn(4, 5, 5), torch.randint(0, 5, (4, 5))
    with pytest.raises(ValueError, match="second axis and on the last one"):
        hits(logits, labels)
    spec = {"class_axis": "last"}
    for loss in (
        loss_function("cross_entropy", spec, job_folder=Path()),
        loss_function("operator:sub", spec, job_folder=Path()),
    ):
        found = hits(logits, labels, class_axis_of(loss))
        assert torch.equal(found, (logits.argmax(-1) == labels).double().mean(1))
    assert class_axis_of(loss_function("cross_entropy", job_folder=Path())) is None


def test_a_loss_of_ones_own_gets_copies_of_named_outputs():
    """What it writes into them changes nothing."""
    output, target = {"logits": torch.ones(3, 2), "hidden": torch.ones(3)}, torch.zeros(3)

    def loss(output, target):
        output["logits"].zero_()
        return output.pop("hidden") - target

    losses = of_samples(OwnLoss(loss), output, target)
    assert losses.values.tolist() == [1, 1, 1]
    assert output["logits"].sum() == 6
    assert "hidden" in output
    with pytest.raises(ValueError, match=r"shape \[3, 2\] for outputs of shape {logits: \[3, 2\]"):
        of_samples(lambda o, t: o["logits"], output, target)


def test_a_loss_without_weights_is_refused_where_labels_lack():
    """What it can return instead, and what needs no weights, is said."""
    output, target = torch.zeros(2, 3), torch.tensor([1, NO_LABEL])
    loss = OwnLoss(torch.nn.functional.cross_entropy, lacks_labels=True)
    with pytest.raises(
        UsageError, match=r"return a pair .*; or take a built-in loss, such as cross"
    ):
        loss(output, target)
