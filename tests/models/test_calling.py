"""How networks are called."""

from __future__ import annotations

import torch
from torch import nn

from lsengine.models.calling import call


class _Shifted(nn.Module):
    def forward(self, x, mask, scale=1.0):
        return x * mask + scale


def test_inputs_are_given_alone_by_position_or_by_name():
    """The order of names does not matter; what is not given keeps its default."""
    x, mask = torch.tensor([[1.0], [2.0]]), torch.tensor([[1], [0]])
    expected = [[2.0], [1.0]]
    assert call(_Shifted(), (x, mask)).tolist() == expected
    assert call(_Shifted(), {"mask": mask, "x": x}).tolist() == expected
    assert call(_Shifted(), {"mask": mask, "x": x, "scale": x}).tolist() == [[2.0], [2.0]]
    assert call(nn.ReLU(), -x).tolist() == [[0.0], [0.0]]
