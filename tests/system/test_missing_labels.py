"""Labels that stand for none: they count neither in the loss nor as answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lsengine.errors import UsageError
from tests.support import network_verdicts, own_networks

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 6)).astype(np.float32)
Y = np.where(np.arange(40) % 4 == 1, -100, RNG.integers(0, 3, 40))
IMAGES = RNG.normal(size=(20, 3, 4, 4)).astype(np.float32)
PIXELS = RNG.integers(0, 4, (20, 4, 4))
PIXELS[RNG.random(PIXELS.shape) < 0.3] = -100
PIXELS[3] = -100
LINEAR = "def make(): return nn.Linear(6, 3)\n"
CONVOLUTION = "def make(): return nn.Conv2d(3, 4, 3, padding=1)\n"
EACH = "F.cross_entropy(o, t, reduction='none')"


def _right(output, target):
    return (output.argmax(1) == target)[target != -100].double().mean()


@pytest.mark.parametrize("size", ["auto", 1, 7])
@pytest.mark.parametrize(
    ("code", "x", "y"),
    [(LINEAR, X, Y), (LINEAR, X, Y[:, None]), (CONVOLUTION, IMAGES, PIXELS)],
    ids=["classes", "column", "positions"],
)
def test_loss_accuracy_and_curvature_are_of_the_labels_there_are(tmp_path, code, x, y, size):
    """As torch's cross entropy over the whole split, whatever the batches."""
    changes = {"quantities": ["loss", "accuracy", "curvature"], "curvature": {"tolerance": 1e-3}}
    job = own_networks.write(tmp_path, code, x, y, batch_size=size, **changes)
    found = own_networks.run(job)

    def loss(output, target):
        return F.cross_entropy(output, target.squeeze(1) if target.ndim == 2 else target)

    np.testing.assert_allclose(found["train_loss"], own_networks.naive(job, loss), rtol=1e-6)
    right = own_networks.naive(job, lambda o, t: _right(o, t.squeeze(1) if t.ndim == 2 else t))
    np.testing.assert_allclose(found["train_accuracy"], right)
    model = own_networks.networks_at_cells(job)[-1]
    inputs, targets = torch.from_numpy(x).double(), torch.from_numpy(y)
    assert not network_verdicts.difference_of_ends(
        model, lambda: loss(model(inputs), targets), found
    )


def test_another_number_may_stand_for_none(tmp_path):
    """`no_label` of the data set; the loss gets -100 for it."""
    y = np.where(PIXELS == -100, 255, PIXELS).astype(np.uint8)
    spec = {"dataset": "arrays", "root": "d.npz", "splits": ["train"]}
    args = {"no_label": 255}
    job = own_networks.write(tmp_path, CONVOLUTION, IMAGES, y, data={**spec, "args": args})
    found = own_networks.run(job)
    expected = own_networks.naive(job, lambda o, t: F.cross_entropy(o, t.long(), ignore_index=255))
    np.testing.assert_allclose(found["train_loss"], expected, rtol=1e-6)
    right = own_networks.naive(job, lambda o, t: (o.argmax(1) == t)[t != 255].double().mean())
    np.testing.assert_allclose(found["train_accuracy"], right)
    args = {"no_label": "255"}
    job = own_networks.write(tmp_path, CONVOLUTION, IMAGES, y, data={**spec, "args": args})
    with pytest.raises(UsageError, match="no_label: expected an integer, got '255'"):
        own_networks.run(job)


def test_a_loss_of_ones_own_says_by_weights_which_labels_count(tmp_path):
    """Then the accuracy leaves them out, too; a loss without weights is refused."""
    code = LINEAR + f"def loss(o, t): return {EACH}, t != -100\n"
    job = own_networks.write(tmp_path / "pair", code, X, Y, loss="net:loss", batch_size=7)
    found = own_networks.run(job)
    expected = own_networks.naive(job, lambda o, t: F.cross_entropy(o, t))
    np.testing.assert_allclose(found["train_loss"], expected, rtol=1e-6)
    np.testing.assert_allclose(found["train_accuracy"], own_networks.naive(job, _right))
    for name, result in (("each", EACH), ("mean", "F.cross_entropy(o, t)")):
        code = LINEAR + f"def loss(o, t): return {result}\n"
        job = own_networks.write(tmp_path / name, code, X, Y, loss="net:loss")
        with pytest.raises(
            UsageError, match=r"labels are -100.*return a pair \(numbers, weights\)"
        ):
            own_networks.run(job)


def test_no_labels_at_all_are_refused(tmp_path):
    """And so is a loss that has no meaning for them."""
    job = own_networks.write(tmp_path, LINEAR, X, np.full(40, -100))
    with pytest.raises(UsageError, match="train has no label but -100"):
        own_networks.run(job)
    job = own_networks.write(tmp_path, LINEAR, X, Y, loss="mse")
    with pytest.raises(UsageError, match="loss: mse has no labels of -100"):
        own_networks.run(job)
