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
    "beyond all floats": ({"epoch": 10**400, "step": "9" * 5000}, None, None),
    "beyond all epochs": ({"epoch": 10**30, "step": 1e300}, None, None),
    "tensors without one number": (
        {"epoch": torch.eye(1).to_sparse(), "step": torch.empty(1, device="meta")},
        None,
        None,
    ),
    "nothing": ([1, 2], None, None),
}


@pytest.mark.parametrize("case", NUMBERS)
def test_epoch_and_step(tmp_path, case):
    """Where programs write them, and nowhere else."""
    tree, epoch, step = NUMBERS[case]
    found = progress.numbers(tree, tmp_path / "a.pt")
    assert (progress.epoch_of(found), progress.step_of(found)) == (epoch, step)


@pytest.mark.parametrize("content", ["[" * 100_000, '{"epoch": ' + "9" * 5000 + "}", "nonsense"])
def test_a_damaged_file_beside_is_left_out(tmp_path, caplog, content):
    """It says so, and the checkpoint counts."""
    (tmp_path / "trainer_state.json").write_text(content)
    assert progress.numbers({"epoch": 3}, tmp_path / "a.pt") == {"epoch": 3}
    assert "trainer_state.json is left out" in caplog.text
