"""Built-in losses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lsengine.objective import losses
from lsengine.objective.losses import loss_function


def test_mse_of_classes_is_against_one_hot_vectors():
    """Integer targets become one-hot vectors; real ones are taken as they are."""
    mse = loss_function("mse", job_folder=Path())
    output = torch.tensor([[0.2, 0.8], [1.0, 0.0]], dtype=torch.float64)
    assert mse(output, torch.tensor([1, 1])).tolist() == pytest.approx([0.04, 1.0])
    assert float(mse(output, output).sum()) == 0


def test_classes_on_the_last_axis_are_named():
    """Outputs (N, T, K), as of a transformer, with labels (N, T): the message says what to do."""
    outputs, targets = torch.randn(4, 6, 5), torch.randint(0, 5, (4, 6))
    with pytest.raises(ValueError, match=r"return output\.movedim\(-1, 1\)"):
        losses.hits(outputs, targets)
    right = losses.hits(outputs.movedim(-1, 1), targets)
    assert right.tolist() == (outputs.argmax(-1) == targets).double().mean(1).tolist()
    assert not losses.axis_hint(torch.randn(4, 5), torch.zeros(4))
