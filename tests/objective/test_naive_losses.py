"""The definitions of losses against values by hand, and against torch."""

from __future__ import annotations

import math

import pytest
import torch

from lsengine.objective import naive_losses


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_cross_entropy_is_its_definition(scale):
    """Log sum exp minus the label's logit, for tame and for large logits."""
    logits = scale * torch.tensor([[0.1, -0.2, 0.3], [1.0, 0.5, -2.0]], dtype=torch.float64)
    target = torch.tensor([2, 1])
    found = naive_losses.cross_entropy(logits, target).tolist()
    for row, label, value in zip(logits.tolist(), target.tolist(), found, strict=True):
        top = max(row)
        assert value == pytest.approx(
            top + math.log(sum(math.exp(v - top) for v in row)) - row[label]
        )
