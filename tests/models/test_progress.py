"""How far a training was is read from what its checkpoints say."""

from __future__ import annotations

import pytest
import torch

from lsengine.models import progress

NUMBERS = {
    "at the top": ({"epoch": 3, "global_step": 40, "acc": 0.5}, 3, 40),
    "in what it says of itself": ({"meta": {"epoch": 4, "iter": 100}, "state_dict": {}}, 4, 100),
    "as tensors": ({"epoch": torch.tensor(2), "model": {"a": torch.ones(1)}}, 2, None),
    "as words": ({"step": "7", "format": "pt"}, None, 7),
    "whole, as floats": ({"epoch": 2.0}, 2, None),
    "between two epochs": ({"epoch": 1.5, "global_step": 3}, None, 3),
    "a setting": ({"hyper_parameters": {"epoch": 100}}, None, None),
    "buffers of the network": ({"weight": torch.ones(2), "step": torch.tensor(5)}, None, None),
    "a truth": ({"epoch": True}, None, None),
    "nothing": ([1, 2], None, None),
}


@pytest.mark.parametrize("case", NUMBERS)
def test_epoch_and_step(tmp_path, case):
    """Where programs write them, and nowhere else."""
    tree, epoch, step = NUMBERS[case]
    found = progress.numbers(tree, tmp_path / "a.pt")
    assert (progress.epoch_of(found), progress.step_of(found)) == (epoch, step)
