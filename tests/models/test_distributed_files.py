"""Folders of torch.distributed.checkpoint are read by one process."""

from __future__ import annotations

import pickle
import shutil

import pytest
import torch
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


def larger(metadata):
    """Say that a tensor is large."""
    entry = next(iter(metadata.state_dict_metadata.values()))
    entry.size = torch.Size([10**12])


def elsewhere(metadata):
    """Say that a part is in another folder."""
    next(iter(metadata.storage_data.values())).relative_path = "../other.distcp"


def twice(metadata):
    """Say that all parts are the same bytes."""
    first, *others = metadata.storage_data.values()
    for other_part in others:
        other_part.offset, other_part.length = first.offset + 1, first.length


def long(metadata):
    """Say that a part goes on behind the end of the file."""
    next(iter(metadata.storage_data.values())).length = 10**9


CHANGES = {
    larger: "its tensors have 4,000,",
    elsewhere: "names a file that is not beside it: ../other.distcp",
    twice: "has parts that share bytes",
    long: "has parts that share bytes, or is cut",
}


@pytest.mark.parametrize("change", CHANGES)
def test_parts_are_where_they_are_said_to_be(tmp_path, state, change):
    """Before room is made for them."""
    dcp.save(state, checkpoint_id=tmp_path / "a", no_dist=True)
    path = tmp_path / "a" / ".metadata"
    metadata = pickle.loads(path.read_bytes())
    change(metadata)
    path.write_bytes(pickle.dumps(metadata))
    refused(
        tmp_path / "a", f"is not a checkpoint of torch.distributed, or damaged.*{CHANGES[change]}"
    )
    shutil.copy(next((tmp_path / "a").glob("*.distcp")), tmp_path / "other.distcp")
    refused(tmp_path / "a", CHANGES[change])
