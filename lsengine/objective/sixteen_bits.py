"""Which networks and data have no precision of 16 bits."""

from __future__ import annotations

from torch import nn

from lsengine.data.dataset import Dataset
from lsengine.data.nesting import leaves
from lsengine.data.validation import whole_and_beyond


def unfit(model: nn.Module, dataset: Dataset) -> str:
    """Return why a network or its data have no precision of 16 bits; empty if they have one."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    if name := next((n for n, t in tensors if t.is_complex()), ""):
        return f"{name} is complex, and 16-bit precisions have no complex numbers"
    for split, samples in dataset.splits.items():
        if any(t.is_floating_point() and whole_and_beyond(t, 256) for _, t in leaves(samples.x)):
            return (
                f"the {split} inputs are whole numbers, some larger than 256, which 16 bits round, "
                "all of them or those in one place of every sample (are they tokens? then store "
                "them as integers)"
            )
    return ""
