"""Checkpoints, directions and training states that are damaged, foreign or dangerous."""

from __future__ import annotations

import os
import pickle
import shutil

import h5py
import numpy as np
import pytest
import torch
import yaml

from lsengine import store
from lsengine.cli import main
from tests.support.refusals import (
    CURVE,
    FOREIGN,
    TRAIN,
    as_empty,
    as_foreign_zip,
    as_other_network,
    as_text,
    as_truncated,
)


class _Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path.with_name("owned")),)


def _code(path):
    torch.save({"state_dict": {"0.weight": _Evil(path)}}, path)


def _bare_code(path):
    path.write_bytes(pickle.dumps({"state_dict": {"0.weight": _Evil(path)}}, protocol=2))


def _module(path):
    torch.save({"model": torch.nn.Linear(6, 3)}, path)


def _list(path):
    torch.save([torch.zeros(3)], path)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (as_text, "is not a checkpoint of torch, or damaged"),
        (as_empty, "is not a checkpoint of torch, or damaged"),
        (as_truncated, "is not a checkpoint of torch, or damaged"),
        (as_foreign_zip, "is not a checkpoint of torch, or damaged"),
        (_code, "reading those may run code (posix.mkdir)"),
        (_bare_code, "reading those may run code (posix.mkdir)"),
        (_module, "reading those may run code (torch.nn.modules.linear.Linear)"),
        (_list, "holds no parameters"),
        (as_other_network, "does not fit the model: missing: 0.weight"),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_checkpoints_that_are_none(job, refused, tmp_path, damage, says):
    """Refused with the key, the file and the reason; no code of theirs is run."""
    path = job()
    damage(tmp_path / "centre.pt")
    refused("eval", path, says=["model.checkpoint: ", "centre.pt", says])
    assert not (tmp_path / "owned").exists()


def test_a_checkpoint_of_another_width(job, refused):
    """Both shapes of the first parameters are named."""
    path = job()
    document = yaml.safe_load(path.read_text())
    document["model"]["args"] = {"width": 8}
    path.write_text(yaml.safe_dump(document))
    refused("eval", path, says=["0.weight (16x6, in the model 8x6)", "model.args"])


def test_weights_that_are_not_numbers_are_legitimate(job, tmp_path, capfd):
    """A diverged network has a surface, too: NaN is its value."""
    path = job(**CURVE)
    content = torch.load(tmp_path / "centre.pt")
    content["state_dict"]["0.weight"][0] = float("nan")
    torch.save(content, tmp_path / "centre.pt")
    assert main(["eval", str(path)]) == 0
    surface = store.read(tmp_path / "job.h5")
    assert surface.done.all()
    assert np.isnan(surface.quantities["train_loss"]).all()
    assert "train_loss is nan" in capfd.readouterr().err


def _same(path):
    shutil.copy(path.with_name("centre.pt"), path)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (_same, "directions.alpha: nothing moves"),
        (as_other_network, ["directions.alpha", "other.pt does not fit", "missing: 0.weight"]),
        (as_text, ["directions.alpha.checkpoint: ", "is not a checkpoint of torch"]),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_directions_to_nowhere(job, refused, tmp_path, make, says):
    """The other checkpoint is the centre itself, of another network, or none."""
    path = job(directions=FOREIGN, grid={"alpha": [0, 1, 3]})
    make(tmp_path / "other.pt")
    refused("eval", path, says=says)


def test_directions_in_which_nothing_moves(job, refused):
    """Everything is ignored."""
    alpha = {"kind": "random", "ignore": ["*"]}
    path = job(directions={"alpha": alpha}, grid={"alpha": [0, 1, 3]})
    refused("eval", path, says="directions.alpha: nothing moves; every parameter is ignored")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("plane.h5", ["directions.alpha.which", "no direction alpha; it has none"]),
        ("mine.py", ["directions.alpha.path: ", "not a readable HDF5 file"]),
        ("gone.h5", "directions.alpha.path: no such file"),
    ],
)
def test_directions_from_files_that_have_none(job, refused, surface, source, says):
    """A surface without directions, no HDF5 file, and no file."""
    directions = {"alpha": {"kind": "file", "path": source}}
    refused("eval", job(directions=directions, grid={"alpha": [0, 1, 3]}), says=says)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"train": None}, 'train: required by "lsengine train", but missing'),
        ({"train": {**TRAIN, "epochs": 0}}, "train.epochs: expected at least 1, got 0"),
        ({"train": {**TRAIN, "lr": -1.0}}, "train.lr: expected greater than 0, got -1.0"),
        ({"train": {**TRAIN, "lr": float("nan")}}, "train.lr: "),
        ({"train": {**TRAIN, "optimizer": "sdg"}}, 'did you mean "sgd"?'),
        ({"train": {**TRAIN, "output": "data.npz"}}, "train.output: "),
        ({"train": {**TRAIN, "flip": True}}, "train.flip: needs images"),
        ({"train": {**TRAIN, "save_epochs": [9]}}, "train.save_epochs: got 9; train.epochs is 1"),
        ({"train": TRAIN, "data": {"dataset": "digits", "splits": ["test"]}}, "data.splits: train"),
        ({"train": TRAIN, "loss": "mine:undefined_loss"}, ["loss: mine:undefined_loss", "NameErr"]),
    ],
    ids=lambda v: str(v)[:60],
)
def test_recipes_that_cannot_be_trained(job, refused, changes, says):
    """Refused before the folder is touched."""
    refused("train", job(**changes), says=says)


def test_a_training_folder_that_nobody_can_make(job, refused):
    """Not even root: it is the machine that is unfit."""
    path = job(train={**TRAIN, "output": "/proc/trained"})
    refused("train", path, code=3, says="train.output: /proc/trained cannot be made")


def test_training_into_folders_of_something_else(job, refused, tmp_path):
    """Another recipe's, a foreign one, and one whose state is damaged."""
    assert main(["train", str(job(train=TRAIN)), "--progress", "none"]) == 0
    says = ["train.output: ", "holds another training", "train.lr is 0.5 in the job, 0.1"]
    refused("train", job(train={**TRAIN, "lr": 0.5}), says=says)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "epoch_300.pt").write_text("precious")
    path = job(train={**TRAIN, "output": "foreign"})
    refused("train", path, says=["holds epoch_300.pt, but no history.h5", "another folder"])
    (foreign / "history.h5").write_text("precious, too")
    refused("train", path, says="history.h5: not a readable HDF5 file")
    with h5py.File(foreign / "history.h5", "w") as file:
        file.attrs["format"] = "lsengine-history"
    refused("train", path, says="history.h5: ")


@pytest.mark.parametrize("state", [{"weights": 1}, {"epoch": 0, "state_dict": {}}, [1, 2]])
def test_training_from_a_state_that_is_damaged(job, refused, tmp_path, state):
    """The file to remove is named."""
    path = job(train={**TRAIN, "epochs": 2})
    assert main(["train", str(path), "--progress", "none"]) == 0
    with h5py.File(tmp_path / "trained" / "history.h5", "r+") as file:
        file.attrs["epochs"] = 3  # as if it had been stopped
    torch.save(state, tmp_path / "trained" / "resume.pt")
    refused("train", path, says=["train.output: ", "resume.pt"])
