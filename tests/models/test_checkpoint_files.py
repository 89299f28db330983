"""Files and folders of many programs are read, and no code in them is run."""

from __future__ import annotations

import collections
import enum
import functools
import json
import pathlib
import re
import sys
import warnings
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from lsengine.errors import EnvironmentUnfit
from lsengine.external.installation import install
from lsengine.models import checkpoint
from tests.support.state_dicts import (
    KEY,
    Settings,
    assert_same,
    prefixed,
    refused,
    taken,
    write,
)

safetensors = pytest.importorskip("safetensors.torch")


def deepspeed(state):
    """What DeepSpeed writes for each rank of a model."""
    return {
        "module": prefixed(state, "module."),
        "param_shapes": [{name: tensor.shape for name, tensor in state.items()}],
        "ds_version": "0.16",
        "global_steps": 10,
    }


def test_safetensors_are_read(tmp_path, state):
    """A file, one of another name, shards with their index, and folders of Hugging Face's."""
    safetensors.save_file(state, tmp_path / "model.safetensors", metadata={"epoch": "7"})
    (tmp_path / "other.ckpt").write_bytes((tmp_path / "model.safetensors").read_bytes())
    shards = tmp_path / "shards"
    shards.mkdir()
    names = list(state)
    index = {}
    for number, part in enumerate((names[:3], names[3:]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        safetensors.save_file(prefixed({n: state[n] for n in part}, "model."), shards / file)
        index |= {f"model.{name}": file for name in part}
    (shards / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    for path in (tmp_path / "model.safetensors", tmp_path / "other.ckpt", tmp_path, shards,
                 shards / "model.safetensors.index.json"):  # fmt: skip
        assert_same(taken(path), state)
    assert checkpoint.numbers(tmp_path / "model.safetensors", key=KEY) == {"epoch": 7}
    assert checkpoint.digest(tmp_path) == checkpoint.digest(tmp_path / "model.safetensors")
    before = checkpoint.digest(shards)
    safetensors.save_file({"x": torch.ones(1)}, shards / "model-00002-of-00002.safetensors")
    assert checkpoint.digest(shards) != before
    (shards / "model-00001-of-00002.safetensors").unlink()
    refused(shards, "files that are missing: model-00001-of-00002.safetensors")
    (tmp_path / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0nonsense")
    refused(tmp_path / "model.safetensors", "is not a checkpoint of safetensors, or damaged")


def test_shards_of_torch_are_read(tmp_path, state):
    """With their index, or the folder alone; the step is what the trainer wrote beside."""
    names = list(state)
    index = {}
    for number, part in enumerate((names[:2], names[2:]), 1):
        file = f"pytorch_model-0000{number}-of-00002.bin"
        torch.save({n: state[n] for n in part}, tmp_path / file)
        index |= dict.fromkeys(part, file)
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
    (tmp_path / "trainer_state.json").write_text('{"epoch": 0.5, "global_step": 500}')
    torch.save({"state": {0: {"exp_avg": torch.ones(2)}}}, tmp_path / "optimizer.pt")
    assert_same(taken(tmp_path), state)
    assert checkpoint.step_of(checkpoint.numbers(tmp_path, key=KEY)) == 500


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_shards_that_disagree_are_refused(tmp_path, state, suffix):
    """A tensor in two files has two values, and no order of files says which one is meant."""
    save = safetensors.save_file if suffix == "safetensors" else torch.save
    first, *_ = state
    save(state, tmp_path / f"a.{suffix}")
    save({first: 5 * state[first]}, tmp_path / f"b.{suffix}")
    index = dict.fromkeys(state, f"a.{suffix}") | {"more": f"b.{suffix}"}
    path = tmp_path / f"model.{suffix}.index.json"
    path.write_text(json.dumps({"weight_map": index}))
    refused(path, f"has {first} in two of its files; keep one")


def test_folders_of_deepspeed_are_read(tmp_path, state):
    """The folder of a step, or the one above, whose file says which; parts of ranks are refused."""
    step = tmp_path / "global_step10"
    step.mkdir()
    torch.save(deepspeed(state), step / "mp_rank_00_model_states.pt")
    (tmp_path / "latest").write_text("global_step10\n")
    for path in (step, tmp_path, step / "mp_rank_00_model_states.pt"):
        assert_same(taken(path), state)
    torch.save({}, step / "mp_rank_01_model_states.pt")
    refused(step, "holds the parts of 2 ranks; convert it with the zero_to_fp32.py")


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (print, ("code was run",))


class Color(enum.Enum):
    """A kind of setting."""

    RED = 1


class Counted(dict):
    """A dict that has attributes."""

    def __init__(self, *args):
        super().__init__(*args)
        self.count = 3


class Chain(list):
    """A list of one's own."""


SETTINGS = {
    "defaultdict": collections.defaultdict(list, {"a": [1]}),
    "dict with attributes": Counted({"a": 1}),
    "list": Chain([1, 2]),
    "deque": collections.deque([1, 2]),
    "enum": Color.RED,
    "path": pathlib.Path("/data"),
    "class": torch.optim.Adam,
    "function of some arguments": functools.partial(int, base=2),
    "module": nn.CrossEntropyLoss(weight=torch.ones(2)),
    "random state": np.random.RandomState(1).get_state(),
    "array": np.arange(3),
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_beside_are_passed_over(tmp_path, state, setting, zipped):
    """Whatever the class of an object, the parameters beside it are read."""
    content = {"state_dict": state, "settings": SETTINGS[setting], "epoch": 4}
    path = tmp_path / "a.pt"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    if setting == "module" and not zipped:  # that format keeps the source of modules
        refused(path, r"Python objects, .*torch\.nn\.Module")
        return
    assert_same(taken(path), state)
    assert checkpoint.numbers(path, key="k") == {"epoch": 4}


@pytest.mark.parametrize("name", [b"Sett\0ngs", b"Sett\x1bngs", b"S\xc3\xa9ttngs"])
def test_objects_of_odd_names_are_passed_over(tmp_path, state, name):
    """A class that no Python could have, with a null character in its name."""
    torch.save({"state_dict": state, "settings": Settings()}, tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "odd.pt", "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content.replace(b"Settings", name))
    assert_same(taken(tmp_path / "odd.pt"), state)


def test_archives_of_code_are_refused(tmp_path):
    """With how to get at their parameters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(nn.Linear(1, 1)).save(str(tmp_path / "a.pt"))
    refused(tmp_path / "a.pt", "is a TorchScript archive.*torch.jit.load and write its parameters")


def test_a_missing_library_is_named(tmp_path, state, monkeypatch):
    """With the extra that installs it."""
    safetensors.save_file(state, tmp_path / "a.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(EnvironmentUnfit, match=re.escape(install("safetensors"))):
        taken(tmp_path / "a.safetensors")


def test_objects_are_passed_over_without_running_code(tmp_path, state, capfd):
    """Neither their classes' code nor what they name is run."""
    path = write(tmp_path / "a.pt", {"state_dict": state, "settings": Settings()})
    content = path.read_bytes()
    assert b"Settings" in content
    assert_same(taken(path), state)
    torch.save({"state_dict": state, "evil": Evil()}, path)
    refused(path, r"may run code \(\S*print\)")
    assert "code was run" not in capfd.readouterr().out
