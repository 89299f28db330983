"""Folders of torch.distributed.checkpoint are read by one process."""

from __future__ import annotations

import torch.distributed.checkpoint as dcp

from lsengine.models import checkpoint
from tests.support.state_dicts import KEY, assert_same, other, refused, taken


def test_folders_of_torch_distributed_are_read(tmp_path, state):
    """Without a process group, and without running what their description names."""
    content = {"app": {"model": state, "optim": {"state": other(state)}}, "epoch": 3}
    dcp.save(content, checkpoint_id=tmp_path / "a", no_dist=True)
    assert_same(taken(tmp_path / "a"), state)
    assert checkpoint.epoch_of(checkpoint.numbers(tmp_path / "a", key=KEY)) == 3
    metadata = tmp_path / "a" / ".metadata"
    evil = b"cbuiltins\nprint\n(S'code was run'\ntR."
    metadata.write_bytes(evil)
    refused(tmp_path / "a", r"holds Python objects \(builtins\.print\)")
