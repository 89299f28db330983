"""Checkpoints are in the order in which a training wrote them, or it is refused."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from lsengine.engine.prepare import checkpoint_order
from lsengine.errors import UsageError

KEY = "trajectory.checkpoints"
# Names from the first to the last, the numbers and the unit that they mean.
NAMED = {
    "losses with exponents": (
        ["loss=1e-3-epoch=2.ckpt", "loss=2e-2-epoch=10.ckpt", "loss=5e-1-epoch=11.ckpt"],
        [2, 10, 11],
        "epoch",
    ),
    "thousands": (["step-2k.pt", "step-10k.pt"], [2, 10], "step"),
    "lightning": ([f"epoch={i}-val_loss=0.{9 - i}5.ckpt" for i in range(8)], range(8), "epoch"),
    "many epochs": ([f"epoch={i}-step={40 * i}.ckpt" for i in range(12)], range(12), "epoch"),
    "steps in epochs": (
        [f"epoch={i // 2}-step={100 * i}.ckpt" for i in range(5)],
        [0, 100, 200, 300, 400],
        "step",
    ),
    "steps anew": (
        [f"epoch_{e}_iter_{s}.pt" for e in (1, 2) for s in (500, 1000)],
        range(4),
        "place",
    ),
    "hugging face": (["checkpoint-500", "checkpoint-1000", "checkpoint-1500"], [500, 1000, 1500],
                     "number"),
    "accelerate": (["step_20.pt", "step_100.pt", "step_200.pt"], [20, 100, 200], "step"),
    "deepspeed": ([f"global_step{i}" for i in (9, 10, 11)], [9, 10, 11], "step"),
    "folders": ([f"step_{i}/model.pt" for i in (5, 50, 500)], [5, 50, 500], "step"),
    "zeros before": ([f"epoch_{i:03d}.pt" for i in (0, 8, 10)], [0, 8, 10], "epoch"),
    "a network's number": ([f"resnet18_v1.2_{i}.pth" for i in (3, 20)], [3, 20], "number"),
    "loss first": (["loss0.9_epoch1.pt", "loss0.5_epoch2.pt", "loss0.7_epoch3.pt"], [1, 2, 3],
                   "epoch"),
    "accuracy first": (["acc95_model_1.pt", "acc93_model_2.pt"], [1, 2], "number"),
    "rising text": (["ep1-loss=-0.5.pt", "ep2-loss=0.5.pt"], [1, 2], "epoch"),
    "dates before": (["2024-05-01_epoch9.pt", "2024-04-02_epoch10.pt"], [9, 10], "epoch"),
    "alone": (["final.pt"], [0], "place"),
}  # fmt: skip


@pytest.mark.parametrize("case", NAMED)
def test_names_say_the_order(case):
    """Whatever the order in which they are found."""
    names, numbers, unit = NAMED[case]
    paths = [Path("/run", name) for name in names]
    shuffled = random.Random(1).sample(paths, len(paths))
    order = checkpoint_order.ordered({path: {} for path in shuffled}, KEY)
    assert order.paths == tuple(paths)
    assert order.numbers == tuple(numbers)
    assert (order.unit, order.is_stated) == (unit, False)


STATED = {
    "epochs": ([{"epoch": 1}, {"epoch": 2}, {"epoch": 10}], [1, 2, 10], "epoch"),
    "steps": ([{"global_step": 5}, {"step": 50}], [5, 50], "step"),
    "both": ([{"epoch": i, "global_step": 40 * i} for i in range(3)], [0, 1, 2], "epoch"),
    "fractions": (
        [{"epoch": 0.5, "global_step": 100}, {"epoch": 1.0, "global_step": 200}],
        [100, 200],
        "step",
    ),
    "steps of one epoch": ([{"epoch": 0, "step": 10}, {"epoch": 0, "step": 20}], [10, 20], "step"),
    "steps anew": (
        [{"epoch": e, "step": s} for e in (0, 1) for s in (10, 20)],
        range(4),
        "place",
    ),
}


@pytest.mark.parametrize("case", STATED)
def test_files_say_the_order(case):
    """Names that say nothing of time do not count then."""
    stated, numbers, unit = STATED[case]
    paths = [Path("/run", f"acc{97 - i}-{'xyz'[i % 3] * (i + 1)}.pt") for i in range(len(stated))]
    pairs = list(zip(paths, stated, strict=True))
    order = checkpoint_order.ordered(dict(reversed(pairs)), KEY)
    assert order.paths == tuple(paths)
    assert (order.numbers, order.unit) == (tuple(numbers), unit)
    assert order.is_stated


REFUSED = {
    "losses alone": ({"loss=0.5.pt": {}, "loss=0.25.pt": {}}, "ambiguous: .*no whole number"),
    "accuracies alone": ({"acc91.pt": {}, "acc93.pt": {}}, "ambiguous: .*no whole number"),
    "two numbers that disagree": (
        {"run1_part9.pt": {}, "run2_part3.pt": {}},
        r"ambiguous: .*several numbers \(run1_part9\.pt, run2_part3\.pt\)",
    ),
    "thousands and ones": ({"step-500.pt": {}, "step-1k.pt": {}, "step-10k.pt": {}}, "ambiguous"),
    "thousands, and seeds": ({"step-500-s2.pt": {}, "step-1k-s1.pt": {}}, "ambiguous"),
    "different texts": ({"epoch_1.pt": {}, "best_epoch_1.pt": {}}, "ambiguous"),
    "the same epoch in names": (
        {"epoch=3-val_loss=0.25.ckpt": {}, "epoch=3-val_loss=0.20.ckpt": {}, "epoch=4.ckpt": {}},
        "0.20.ckpt and .*0.25.ckpt are both of epoch 3",
    ),
    "the same epoch in files": ({"a.pt": {"epoch": 3}, "b.pt": {"epoch": 3}}, "both of epoch 3"),
    "the same step": (
        {"a.pt": {"epoch": 3, "step": 1}, "b.pt": {"epoch": 3, "step": 1}},
        "both of epoch 3, step 1",
    ),
    "some say it": (
        {"a.pt": {"epoch": 3}, "b.pt": {}},
        r"b\.pt says neither epoch nor step, others do; the order .* is ambiguous",
    ),
    "renamed": (
        {"epoch_4.pt": {"epoch": 4}, "epoch_30.pt": {"epoch": 3}},
        r"epoch_4\.pt says that it is of epoch 4, epoch_30\.pt of epoch 3: out of order",
    ),
    "two trainings": (
        {"a.pt": {"epoch": 1, "step": 900}, "b.pt": {"epoch": 2, "step": 30}},
        "the order is ambiguous; are they of two trainings",
    ),
    "half renamed": (
        {"step_10.pt": {}, "step_20.pt": {"step": 20}, "step_30.pt": {"step": 5}},
        r"step_30\.pt says that it is of step 5, step_20\.pt of step 20: out of order",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_ambiguous_is_refused(case):
    """With what was found, whatever the order in which it was."""
    numbers, says = REFUSED[case]
    for pairs in (numbers.items(), reversed(numbers.items())):
        with pytest.raises(UsageError, match=f"^{KEY}: .*{says}"):
            checkpoint_order.ordered({Path("/run", name): n for name, n in pairs}, KEY)


def test_the_order_is_shown():
    """All of a few, the ends of many."""
    few = checkpoint_order.ordered({Path(f"/m-{i}.pt"): {"epoch": i} for i in range(3)}, KEY)
    assert few.words() == (
        "3 checkpoints by epoch that they say: m-0.pt (0), m-1.pt (1), m-2.pt (2)"
    )
    folders = {Path(f"/checkpoint-{i}/model.bin"): {} for i in (500, 1500)}
    assert (
        checkpoint_order.ordered(folders, KEY)
        .words()
        .endswith("checkpoint-500/model.bin (500), checkpoint-1500/model.bin (1500)")
    )
    many = checkpoint_order.ordered({Path(f"/step_{i}.pt"): {} for i in range(30)}, KEY)
    assert many.words().startswith("30 checkpoints by step in their names: step_0.pt (0), step_1")
    assert many.words().endswith("step_3.pt (3), ..., step_28.pt (28), step_29.pt (29)")
