"""Which arrays are of which split, and which are inputs and which targets."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from lsengine.data.dataset import Split
from lsengine.data.naming import Choice, by_split, pair
from lsengine.errors import UsageError

A, B, C = (np.full(3, float(i)) for i in range(3))


def test_names_say_the_split_at_their_end_or_their_beginning():
    """``mask_train`` and ``train/mask`` are the same; an entry ``train`` is all of it."""
    ends = by_split({"ids_train": A, "y_train": B, "y_test": C, "ids_test": A}, "f")
    begins = by_split({"train/ids": A, "test/y": C, "test/ids": A, "train/y": B}, "f")
    assert ends == begins == {"train": {"ids": A, "y": B}, "test": {"ids": A, "y": C}}
    assert list(begins) == ["train", "test"]
    assert by_split({"test": (A, B), "train": C}, "f") == {"train": C, "test": (A, B)}
    assert by_split({"train/x_test": A}, "f") == {"train": {"x_test": A}}


def test_what_has_no_split_is_left_out_and_said(caplog):
    """But not what a factory says of its labels."""
    arrays = {"x_train": A, "y_train": B, "classes": 3, "no_label": 9}
    with caplog.at_level(logging.WARNING):
        by_split(arrays, "f")
        assert not caplog.records
        by_split({**arrays, "mean": C}, "f")
    assert "f: arrays of no split are left out: mean" in caplog.text
    with pytest.raises(UsageError, match="f: expected x_train and y_train, found mean, _train"):
        by_split({"mean": A, "_train": B}, "f")
    with pytest.raises(UsageError, match="has x_train and train/x; give one"):
        by_split({"x_train": A, "train/x": A}, "f")


CHOSEN = {
    "just x and y": ({"y": B, "x": A}, {}, (A, B), (A, B)),
    "x alone": ({"x": A}, {}, None, (A, None)),
    "names": (
        {"ids": A, "mask": B, "labels": C},
        {},
        ({"ids": A, "mask": B}, C),
        ({"ids": A, "mask": B, "labels": C}, None),
    ),
    "the first target": ({"target": A, "labels": B}, {}, ({"target": A}, B), None),
    "a target of another name": (
        {"x": A, "truth": B},
        {"targets": "truth"},
        (A, B),
        (A, B),
    ),
    "inputs in order": (
        {"a": A, "b": B, "y": C},
        {"inputs": ["b", "a"]},
        ((B, A), C),
        ((B, A), C),
    ),
    "a target's name among the inputs": ({"y": A, "label": B}, {"inputs": "y"}, (A, B), (A, B)),
    "one input": ({"a": A, "b": B, "y": C}, {"inputs": "b"}, (B, C), (B, C)),
    "a pair": ([A, B], {}, (A, B), (A, B)),
    "three": ((A, B, C), {}, ((A, B), C), ((A, B, C), None)),
    "one of a tuple": ((A,), {}, None, (A, None)),
    "an array": (A, {}, None, (A, None)),
    "a list of numbers": ([1, 2, 3], {}, None, ([1, 2, 3], None)),
}


@pytest.mark.parametrize(("batch", "choice", "needed", "free"), CHOSEN.values(), ids=CHOSEN.keys())
def test_inputs_and_targets_are_told_apart(batch, choice, needed, free):
    """By names and by places; an objective takes all as inputs but a pair, or what is chosen."""
    for needs, expected in ((True, needed), (False, free)):
        chosen = Choice(**choice, needs_targets=needs)
        if expected is None and needs:
            with pytest.raises(UsageError, match="but no"):
                pair(batch, chosen, "f", "train")
        elif expected is not None:
            assert pair(batch, chosen, "f", "train") == expected
    split = Split(A, B)
    assert pair(split, Choice(), "f", "train") == (A, B)


def test_what_is_asked_for_and_not_there_is_said():
    """With what is there, and what may be meant."""
    named = {"ids": A, "mask": B, "y": C}
    for choice, said in (
        ({"inputs": ["ids", "maks"]}, 'inputs: f has no maks of train; .*did you mean "mask"'),
        ({"targets": "label"}, "targets: f has no label of train; it has: ids, mask, y"),
        ({"inputs": "y", "targets": "y"}, "y is both inputs and targets"),
    ):
        with pytest.raises(UsageError, match=rf"data\.args.*{said}"):
            pair(named, Choice(**choice), "f", "train")
    with pytest.raises(UsageError, match="has y_test, but no x_test"):
        pair({"y": A}, Choice(), "f", "test")
    with pytest.raises(UsageError, match="has ids, but no y; targets are called y, labels"):
        pair({"ids": A}, Choice(), "f", "")


@pytest.mark.parametrize(
    "batch",
    [
        {"ids": A, "labels": B},
        ({"ids": A}, B),
        Split({"ids": A}, B),
        Split({"ids": A, "labels": B}, None),
    ],
)
def test_labels_may_be_inputs_too(batch):
    """A network that computes its own loss gets them by name; a tuple of inputs has no names."""
    x, y = pair(batch, Choice(keeps_targets=True), "f", "train")
    assert y is B
    assert x.keys() == {"ids", "labels"}
    assert x["labels"] is B
    x, _ = pair({"ids": A, "labels": B}, Choice(keeps_targets=True, inputs=["ids"]), "f", "train")
    assert x == (A,)
