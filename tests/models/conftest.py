"""What tests of several networks ask."""

from __future__ import annotations


def names(model):
    """All names of the state dict, counters left out."""
    return [n for n in model.state_dict() if not n.endswith("num_batches_tracked")]
