"""Built-in losses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lsengine.objective.losses import loss_function


def test_mse_of_classes_is_against_one_hot_vectors():
    """Integer targets become one-hot vectors; real ones are taken as they are."""
    mse = loss_function("mse", job_folder=Path())
    output = torch.tensor([[0.2, 0.8], [1.0, 0.0]], dtype=torch.float64)
    assert mse(output, torch.tensor([1, 1])).tolist() == pytest.approx([0.04, 1.0])
    assert float(mse(output, output).sum()) == 0
