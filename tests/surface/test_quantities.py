"""What the name of a quantity tells."""

from __future__ import annotations

import pytest

from lsengine.surface.quantities import Quantity, describe, preferred


@pytest.mark.parametrize(
    ("name", "label", "factor", "best"),
    [
        ("train_loss", "training loss", 1.0, "low"),
        ("test_loss", "test loss", 1.0, "low"),
        ("test_accuracy", "test accuracy (%)", 100.0, "high"),
        ("train_loss_se", "standard error of the training loss", 1.0, ""),
        ("train_exact_match", "training exact match", 1.0, ""),
        ("test_brier_se", "standard error of the test brier", 1.0, ""),
        ("eigenvalue_max", "largest Hessian eigenvalue", 1.0, ""),
        ("my_own_measure", "my own measure", 1.0, ""),
        ("validation_loss", "validation loss", 1.0, ""),  # of no split that is known
    ],
)
def test_names_tell_words_unit_and_the_good_end(name, label, factor, best):
    """Losses are good when low, accuracies when high; of others nothing is supposed."""
    assert describe(name) == Quantity(name, label, factor=factor, best=best)
    assert describe(name).is_percent == (factor == 100.0)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["test_loss", "train_loss", "a"], "train_loss"),
        (["train_accuracy", "test_loss"], "test_loss"),
        (["eigenvalue_min", "eigenvalue_max"], "eigenvalue_max"),
    ],
)
def test_the_training_loss_is_drawn_unless_another_is_asked_for(names, expected):
    """Then the test loss, then accuracies; of unknown ones the first by the alphabet."""
    assert preferred(names) == expected


def test_of_no_quantity_none_is_preferred():
    """An empty file has nothing to draw."""
    with pytest.raises(ValueError, match="empty"):
        preferred([])
