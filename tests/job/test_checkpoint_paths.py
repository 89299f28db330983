"""Which files a checkpoint is."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from lsengine.errors import UsageError
from lsengine.job import Search, checkpoint_paths


def test_what_a_folder_lacks_is_said(tmp_path):
    """A folder without parameters names what could be meant; parts of ranks are refused."""
    assert checkpoint_paths.problem(tmp_path).startswith(f"{tmp_path} is a directory; expected a f")
    (tmp_path / "checkpoint-500").mkdir()
    (tmp_path / "last.pt").touch()
    assert checkpoint_paths.problem(tmp_path).endswith("name one of: last.pt, checkpoint-500")
    (tmp_path / ".metadata").touch()
    assert "has .metadata, but no .distcp file" in checkpoint_paths.problem(tmp_path)
    (tmp_path / ".metadata").unlink()
    (tmp_path / "zero_pp_rank_0_mp_rank_00_model_states.pt").touch()
    assert "parts of each rank (ZeRO stage 3)" in checkpoint_paths.problem(tmp_path)


def test_folders_that_match_a_pattern(tmp_path):
    """Those without a checkpoint are left out, with the reason."""
    for name in ("step-1", "step-2", ".step-3"):
        (tmp_path / name).mkdir()
    (tmp_path / "step-1" / "model.safetensors").touch()
    (tmp_path / "step-4.pt").touch()
    pattern = str(tmp_path / "*step-*")
    found = Search().find("trajectory.checkpoints", pattern)
    assert [path.name for path in found.checkpoints] == ["step-1", "step-4.pt"]
    (reason,) = found.hollow
    assert reason.startswith(f"{tmp_path / 'step-2'} is a directory; expected")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{}", "not an index of shards"),
        ("[1]", "not an index of shards"),
        ('{"weight_map": {}}', "names no file"),
        ('{"weight_map": {"a": "../secret.bin"}}', "not beside it: secret.bin"),
        ('{"weight_map": {"a": "gone.bin"}}', "files that are missing: gone.bin"),
    ],
)
def test_an_index_that_is_none(tmp_path, text, says):
    """It is refused, and nothing outside its folder is read."""
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(text)
    assert says in checkpoint_paths.problem(tmp_path)
    with pytest.raises(UsageError, match=r"^model\.checkpoint: "):
        checkpoint_paths.members(index, "model.checkpoint")


def test_what_is_no_file_is_never_opened(tmp_path):
    """A FIFO would keep it waiting for ever, a device has no end."""
    os.mkfifo(tmp_path / "a.pt")
    assert checkpoint_paths.problem(tmp_path / "a.pt").endswith("is a FIFO; expected a file")
    assert "is a device" in checkpoint_paths.problem(Path("/dev/zero"))
    assert "cannot be looked at" in checkpoint_paths.problem(tmp_path / ("a" * 300))
    index = tmp_path / "model.safetensors.index.json"
    for name in ("a.pt", "a" * 300, "a\0b"):
        index.write_text(json.dumps({"weight_map": {"x": name}}))
        assert checkpoint_paths.problem(index)


def test_damaged_indices_and_marks_are_named(tmp_path):
    """JSON in JSON, and a mark that leads back to its folder."""
    index = tmp_path / "model.safetensors.index.json"
    index.write_text("[" * 100_000)
    assert "is not an index of shards" in checkpoint_paths.problem(index)
    index.unlink()
    for tag in (".", "..", "a" * 300, "again"):
        (tmp_path / "latest").write_text(tag)
        assert "is a directory; expected a file" in checkpoint_paths.problem(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path)
    assert "is a directory; expected a file" in checkpoint_paths.problem(tmp_path)


def test_a_folder_that_is_locked_is_named(tmp_path, monkeypatch):
    """Its owner has to unlock it."""

    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refuse)
    found = checkpoint_paths.problem(tmp_path)
    assert found == f"{tmp_path} cannot be looked at: Permission denied"
