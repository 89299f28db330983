"""What tests of several networks ask."""

from __future__ import annotations

import pytest
import torch

from tests.support.state_dicts import network


def names(model):
    """All names of the state dict, counters left out."""
    return [n for n in model.state_dict() if not n.endswith("num_batches_tracked")]


@pytest.fixture
def state():
    """The state of a network."""
    torch.manual_seed(1)
    return network().state_dict()
