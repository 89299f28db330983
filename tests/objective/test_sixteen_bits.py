"""Which networks and data have no precision of 16 bits."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lsengine import data
from lsengine.objective import sixteen_bits


def _dataset(x_N):
    split = data.Split(x_N, torch.arange(len(x_N)) % 2)
    return SimpleNamespace(splits={"train": split})


@pytest.mark.parametrize(
    ("x_N", "said"),
    [
        (torch.rand(6, 3) * 1000, ""),
        (torch.arange(18.0).view(6, 3) * 3, ""),
        (torch.arange(18.0).view(6, 3) * 300, "the train inputs are whole numbers"),
        (torch.arange(18).view(6, 3) * 300, ""),
    ],
)
def test_whole_numbers_that_would_be_rounded_are_named(x_N, said):
    """Only those of floats beyond 256, the first that bfloat16 does not hold."""
    found = sixteen_bits.unfit(nn.Linear(3, 2), _dataset(x_N))
    assert found.startswith(said)
    assert bool(found) is bool(said)


def test_complex_numbers_are_named():
    """There are no complex numbers whose parts have 16 bits."""
    network = nn.Linear(3, 2).to(torch.complex64)
    assert "weight is complex" in sixteen_bits.unfit(network, _dataset(torch.rand(6, 3)))
