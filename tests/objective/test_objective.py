"""The objective against naive evaluations."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lsengine import data
from lsengine.geometry.directions import draw, normalized
from lsengine.objective import EvaluationSettings, Objective
from lsengine.surface.grid import Cell
from tests.support.objectives import (
    CELLS,
    filter_normalized,
    naive,
    objective_of,
    resnet,
    small_objective,
    visit,
)


def _overfitted(dataset):
    """Train a small network until its training loss is far below 1e-3."""
    torch.manual_seed(2)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    x, y = data.normalized(dataset, "train", torch.float32), dataset.splits["train"].y
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        F.cross_entropy(network(x), y).backward()
        optimizer.step()
    return network.eval()


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("float64", 1e-12)])
@pytest.mark.parametrize("kind", ["untrained", "minimum"])
def test_cells_agree_with_a_naive_evaluation_in_float64(digits, precision, tolerance, kind):
    """Deepcopy, add, run: the same loss to 1e-5 in float32 and 1e-12 in float64."""
    network = resnet() if kind == "untrained" else _overfitted(digits)
    directions = filter_normalized(network)
    objective = objective_of(network, digits, directions, precision)
    for cell in CELLS:
        found, expected = objective.evaluate(cell), naive(network, digits, directions, cell)
        for name in ("train_loss", "test_loss"):
            assert found[name] == pytest.approx(expected[name], rel=tolerance), (cell, name)
    if kind == "minimum":
        assert naive(network, digits, directions, CELLS[0])["train_loss"] < 1e-3


def test_accuracy_and_standard_error_are_those_of_the_samples(digits):
    """Accuracy is the share of hits; the error bar is the standard deviation over root N."""
    network = resnet()
    directions = filter_normalized(network)
    found = objective_of(network, digits, directions, "float64").evaluate(CELLS[1])
    expected = naive(network, digits, directions, CELLS[1])
    assert found == pytest.approx(expected, rel=1e-12)


def test_a_cell_does_not_depend_on_the_cells_before_it(digits):
    """The same cell, first, last or after an infinite one: the same bits."""
    objective = objective_of(resnet(), digits, filter_normalized(resnet()))
    first = objective.evaluate(CELLS[1])
    objective.evaluate(Cell(1e30, 1e30))
    assert objective.evaluate(CELLS[1]) == first


def test_batches_change_nothing_beyond_rounding(digits):
    """Means are over samples, not over batches: an uneven last batch weighs what it has."""
    network = resnet()
    directions = filter_normalized(network)
    whole = objective_of(network, digits, directions, "float64", 200).evaluate(CELLS[1])
    parts = objective_of(network, digits, directions, "float64", 7).evaluate(CELLS[1])
    assert parts == pytest.approx(whole, rel=1e-12)


def test_rescaled_twins_share_their_filter_normalised_surface(digits):
    """Equal functions have equal surfaces under filter normalisation, and only there.

    Two ReLU layers, one times c, the next divided by c: Li et al. 2018, section 3, the reason
    for filter normalisation.
    """
    network, twin = _overfitted(digits), _overfitted(digits)
    with torch.no_grad():
        twin[1].weight *= 8
        twin[1].bias *= 8
        twin[3].weight /= 8
    losses = {}
    for how in ("filter", "none"):
        for name, net in (("network", network), ("twin", twin)):
            weights = {n: p.detach() for n, p in net.named_parameters() if p.ndim > 1}
            directions = {"alpha": normalized(draw(weights, seed=1, axis=0), weights, how)}
            objective = objective_of(net, digits, directions, "float64")
            losses[how, name] = [
                objective.evaluate(Cell(a))["train_loss"] for a in np.linspace(-1, 1, 5)
            ]
    assert losses["filter", "twin"] == pytest.approx(losses["filter", "network"], rel=1e-5)
    assert losses["none", "twin"][2] == pytest.approx(losses["none", "network"][2], rel=1e-9)
    away = [0, 1, 3, 4]
    ratios = [losses["none", "twin"][i] / losses["none", "network"][i] for i in away]
    assert max(abs(math.log(r)) for r in ratios) > 0.5


def _product(hessian):
    ones_P = torch.ones(hessian.size, dtype=hessian.dtype)
    return hessian(ones_P).tolist()


CALLS = {
    "evaluate": lambda o: o.evaluate(CELLS[2], CELLS[0]),
    "losses": lambda o: o.losses(CELLS[1]),
    "losses of others": lambda o: o.losses_of(visit),
    "exact losses": lambda o: o.exact_losses(CELLS[1]),
    "group": lambda o: o.losses_of_group(CELLS),
    "hessian": lambda o: _product(o.hessian(CELLS[1])),
    "samples": lambda o: str(o.values_of_samples({"train": [3, 1]}, CELLS[1])),
}

KINDS = ("weights", "bfloat16", "float64", "own network", "everything", "recalibrated")

NO_GROUPS = ("bfloat16", "recalibrated")


@pytest.mark.parametrize("kind", KINDS)
def test_no_call_depends_on_those_before_it(kind):
    """Whatever is called first, second and in between: the bits of an objective asked once.

    So the fused weights do not have the statistics of a visitor, who may come before all cells.
    """
    calls = {n: c for n, c in CALLS.items() if n != "group" or kind not in NO_GROUPS}
    alone = {name: call(small_objective(kind)) for name, call in calls.items()}
    assert len({str(result) for result in alone.values()}) >= 5
    used = small_objective(kind)
    for first, second in itertools.product(calls, repeat=2):
        for objective in (small_objective(kind), used):
            assert calls[first](objective) == alone[first]
            assert calls[second](objective) == alone[second], f"{second} after {first}"


@pytest.mark.parametrize("order", [("float32", "tf32"), ("tf32", "float32")])
def test_two_precisions_in_one_process_do_not_disturb_each_other(order):
    """Torch's switch of TF32 is every objective's own while it computes, and then as it was."""

    def flags():
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

    def objective(precision):
        seen = []

        def loss(output, target):
            seen.append(flags())
            return F.cross_entropy(output, target, reduction="none")

        x, y = torch.randn(8, 4), torch.arange(8) % 3
        dataset = data.Dataset(splits={"train": data.Split(x, y)}, mean=None, std=None, classes=3)
        settings = EvaluationSettings(device=torch.device("cpu"), precision=precision, batch_size=8)
        return Objective(nn.Linear(4, 3), dataset, loss, {}, settings), seen

    before = flags()
    both = {precision: objective(precision) for precision in order}
    for _ in range(2):
        for precision in ("float32", "tf32"):
            one, seen = both[precision]
            for call, argument in ((one.losses, CELLS[0]), (one.losses_of, visit)):
                seen.clear()
                call(argument)
                assert set(seen) == {(precision == "tf32",) * 2}
                assert flags() == before
            seen.clear()
            one.exact_losses(CELLS[0])
            assert set(seen) == {(False, False)}


def test_an_objective_says_how_it_computes(digits):
    """Fused layers, or the network itself: in float64, for a user's own, where none fuses."""

    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(64, 10)

        def forward(self, x):
            return self.layer(x.flatten(1)) if x.sum() > 0 else -self.layer(x.flatten(1))

    network = resnet()
    assert objective_of(network, digits, {}).forward == "fused"
    assert objective_of(network, digits, {}, "float64").forward == "eager"
    assert objective_of(network, digits, {}, fuses=False).forward == "eager"
    assert objective_of(Branching(), digits, {}).forward == "eager"


def test_a_users_network_that_reshapes_after_a_convolution_works(digits):
    """Own networks get the layout their ``view`` calls count on, and the same values."""

    class Reshaping(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(256, 10)

        def forward(self, x):
            return self.fc(torch.relu(self.conv(x)).view(len(x), -1))

    torch.manual_seed(3)
    network = Reshaping()
    directions = filter_normalized(network)
    objective = objective_of(network, digits, directions, "float64", fuses=False)
    expected = naive(network, digits, directions, CELLS[1])["train_loss"]
    assert objective.evaluate(CELLS[1])["train_loss"] == pytest.approx(expected, rel=1e-12)
