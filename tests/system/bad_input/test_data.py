"""Data sets that do not fit, or are none."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.refusals import (
    TRAIN,
    as_empty,
    as_foreign_zip,
    as_text,
    as_truncated,
)


def _arrays(**changes):
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.normal(size=(8, 6)).astype("f4"),
        "y_train": np.arange(8) % 3,
        "x_test": rng.normal(size=(5, 6)).astype("f4"),
        "y_test": np.arange(5) % 3,
    }
    return {k: v for k, v in {**arrays, **changes}.items() if v is not None}


_HOLED = np.ones((8, 6), "f4")
_HOLED[3, 2] = np.nan


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"x_train": np.zeros((0, 6), "f4"), "y_train": np.zeros(0, int)}, "train: is empty"),
        ({"y_train": np.arange(7) % 3}, "train: 8 inputs, but 7 labels"),
        ({"y_train": np.full(8, -1)}, "train has the label -1; expected 0 to"),
        ({"y_train": np.full(8, 10**9)}, "train has the label 1000000000; expected 0 to"),
        ({"y_test": np.full(5, 9)}, ["the data need 10", "check model.args"]),
        ({"x_train": _HOLED}, ["1 of 8 inputs have NaN", "first at index 3"]),
        ({"x_train": np.ones((8, 5), "f4"), "x_test": np.ones((5, 5), "f4")}, "[5] per sample"),
        ({"x_train": np.ones((8, 7), "f4")}, ["the splits differ", "[7]", "[6]"]),
        ({"x_train": np.ones((8, 6), int)}, "the splits differ: train inputs are int64 [6]"),
        (
            {"x_train": np.ones((8, 6), int), "x_test": np.ones((5, 6), int)},
            "model.arch: the network refuses data of shape [6] per sample",
        ),
        ({"x_train": np.ones((8, 6), "u1")}, "bytes are images (N, C, H, W)"),
        ({"y_train": np.array(list("abcabcab"))}, "train labels: not an array of numbers"),
        ({"y_train": None}, "has x_train, but no y_train"),
        ({"x_test": None, "y_test": None}, ["data.splits: test is asked for", "train"]),
        ({"y_train": np.ones((8, 3)), "y_test": np.ones((5, 2))}, "the splits differ"),
        ({"mask_train": np.ones((7, 6), bool)}, "mask has 7 samples, x 8; all need one first axis"),
        ({"mask_train": np.ones((8, 6), bool)}, "train inputs are x, mask, test inputs one array"),
        ({"x_train": np.array([{}] * 8)}, "not a readable .npz file of plain arrays"),
    ],
    ids=lambda v: ",".join(v) if isinstance(v, dict) else "",
)
@pytest.mark.parametrize("command", ["eval", "train"])
def test_data_that_cannot_be_evaluated(job, refused, tmp_path, command, changes, says):
    """Empty, ragged, out of range, not finite or of the wrong shape."""
    path = job(train=TRAIN)
    np.savez(tmp_path / "data.npz", **_arrays(**changes))
    refused(command, path, says=says)


@pytest.mark.parametrize("damage", [as_text, as_empty, as_truncated, as_foreign_zip])
def test_data_files_that_are_none(job, refused, tmp_path, damage):
    """The .npz is text, empty, half there or another archive."""
    path = job()
    damage(tmp_path / "data.npz")
    refused("eval", path, says="data.root: ")


def test_accuracy_of_a_regression(job, refused, tmp_path):
    """There is none, if it is asked for."""
    y = {"y_train": np.ones((8, 2), "f4"), "y_test": np.ones((5, 2), "f4")}
    model = {"arch": "testnets:regression", "checkpoint": "centre.pt"}
    path = job(model=model, loss="mse", quantities=["loss", "accuracy"])
    np.savez(tmp_path / "data.npz", **_arrays(**y))
    refused("eval", path, says=["quantities: accuracy needs integer labels", "leave it out"])
    path = job(model=model)
    shares = np.full((8, 5), 0.2)
    np.savez(tmp_path / "data.npz", **_arrays(y_train=shares, y_test=shares[:5]))
    refused("eval", path, says="loss: cross_entropy refuses the network's output of shape [2, 2]")


def test_a_zoo_network_for_data_that_are_no_images(job, refused):
    """What to use instead is said."""
    path = job()
    path.write_text(path.read_text().replace("testnets:mlp", "resnet20"))
    refused("eval", path, says=["resnet20 needs images, but the data have 6", "use mlp"])
