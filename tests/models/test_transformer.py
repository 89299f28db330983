"""Rotary positions and initial weights; attention and blocks are tested by `gpt` and `vit`."""

from __future__ import annotations

import math

import pytest
import torch

from lsengine.models.transformer import Attention, rotated, rotation
from tests.support.networks import build


def test_scores_of_turned_vectors_depend_on_their_distance():
    """The product of query and key is that of any two places as far apart; lengths stay."""
    query, key = torch.randn(2, 6, dtype=torch.float64)
    turn = rotation(9, 6, query)
    queries, keys = (rotated(v.expand(1, 1, 9, 6), turn)[0, 0] for v in (query, key))
    scores = queries @ keys.T
    for distance in range(9):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))
    torch.testing.assert_close(scores[0, 0], query @ key)
    assert float((scores[0] - scores[0, 0]).abs()[1:].min()) > 1e-6
    torch.testing.assert_close(queries.norm(dim=1), query.norm().expand(9))


def test_initial_weights_are_those_of_gpt_2():
    """Standard deviation 0.02, less by the root of the residual sums where a layer ends in one."""
    torch.manual_seed(0)
    model = build("gpt", channels=8, classes=300, size=None, depth=2, width=96, heads=4)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
        elif "norm" not in name:
            is_last = name.endswith((".output.weight", ".down.weight"))
            expected = 0.02 / math.sqrt(4) if is_last else 0.02
            assert parameter.std().item() == pytest.approx(expected, rel=0.05)


def test_initial_weights_keep_a_signal_without_residual_sums():
    """Their standard deviation is 1 / sqrt(inputs); of the tied embedding, too."""
    torch.manual_seed(0)
    sizes = {"depth": 1, "width": 64, "heads": 4, "residual": False}
    model = build("gpt", channels=8, classes=300, size=None, **sizes)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            expected = parameter.shape[1] ** -0.5
            assert parameter.std().item() == pytest.approx(expected, rel=0.05), name


def test_heads_share_the_width_evenly():
    """Another number of heads is refused with both."""
    with pytest.raises(ValueError, match="width 10 is no multiple of heads 4"):
        Attention(10, 4, dropout=0.0, causal=True)
