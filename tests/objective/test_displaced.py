"""Networks moved from cell to cell, and their statistics."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lsengine import data
from lsengine.objective import EvaluationSettings, Objective
from lsengine.objective.losses import loss_function
from lsengine.surface.grid import Cell
from tests.support.objectives import (
    CELLS,
    filter_normalized,
    moved,
    naive,
    objective_of,
    resnet,
    small_objective,
    visit,
)


def test_interpolated_statistics_end_at_the_other_network(digits):
    """With running statistics in the direction, coordinate 1 is the other checkpoint."""
    one, other = resnet(), resnet()
    with torch.no_grad():
        for tensor in [*other.parameters(), *other.buffers()]:
            if tensor.is_floating_point():
                tensor *= 1.1
    ends = {**dict(one.named_parameters()), **dict(one.named_buffers())}
    far = {**dict(other.named_parameters()), **dict(other.named_buffers())}
    direction = {n: (far[n] - t).detach() for n, t in ends.items() if t.is_floating_point()}
    objective = objective_of(one, digits, {"alpha": direction}, "float64")
    expected = naive(other, digits, {"alpha": {}, "beta": {}}, CELLS[0])
    assert objective.evaluate(Cell(1.0))["train_loss"] == pytest.approx(
        expected["train_loss"], rel=1e-6
    )


def test_recalibrated_statistics_are_those_of_the_training_data(digits):
    """One batch of the whole split: running mean and variance equal the batch's own."""
    network = resnet()
    directions = filter_normalized(network)
    objective = objective_of(
        network, digits, directions, "float64", batch_norm="recalibrated", recalibration=(200, 200)
    )
    found = objective.evaluate(CELLS[1])["train_loss"]
    copied = moved(network, directions, CELLS[1])
    with torch.no_grad():
        for module in copied.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
        inputs = data.normalized(digits, "train", torch.float64)
        copied.train()(inputs)
        expected = float(F.cross_entropy(copied.eval()(inputs), digits.splits["train"].y))
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_centre_and_directions_are_folded_once(digits, precision):
    """Where only weights move, a cell is one update of a vector that the fused layers look at."""
    model = resnet()
    direction = {n: 0.1 * torch.randn_like(p) for n, p in model.named_parameters() if p.ndim > 1}
    settings = EvaluationSettings(device=torch.device("cpu"), precision=precision, batch_size=64)
    loss = loss_function("cross_entropy", job_folder=Path())
    objective = Objective(model, digits, loss, {"alpha": direction}, settings)
    found = [objective.losses(Cell(step))["train_loss"] for step in (0.0, 1.0, 0.0)]
    exact = [objective.exact_losses(Cell(step))["train_loss"] for step in (0.0, 1.0)]
    assert found[:2] == pytest.approx(exact, rel=1e-5 if precision == "float32" else 0.05)
    assert found[2] == found[0] != found[1]
    addresses = {
        layer.weight.untyped_storage().data_ptr() for layer in objective._network.forward._layers
    }
    assert len(addresses) == 1


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_cells_after_other_weights_are_what_they_were(digits, precision):
    """Of a fused residual network, too, where another checkpoint comes before the first cell."""
    network = resnet()
    directions = filter_normalized(network)
    objective = objective_of(network, digits, directions, precision)
    assert objective.forward == "fused"
    before = [objective.losses(cell) for cell in CELLS]
    assert objective.losses_of(visit) != before[0]
    assert [objective.losses(cell) for cell in CELLS] == before
    visited_first = objective_of(network, digits, directions, precision)
    visited_first.losses_of(visit)
    assert [visited_first.losses(cell) for cell in CELLS] == before


def test_a_recalibration_that_is_broken_off_leaves_evaluation_mode():
    """Who stops in the middle of a cell finds the same values in the next one."""
    objective = small_objective("recalibrated", curvature=None)
    expected = small_objective("recalibrated", curvature=None).losses(CELLS[1])

    def stop():
        raise KeyboardInterrupt

    objective._network._tick = stop
    with pytest.raises(KeyboardInterrupt):
        objective.losses(CELLS[0])
    objective._network._tick = lambda: None
    assert objective.losses(CELLS[1]) == expected


@pytest.mark.parametrize("name", ["bn1.bias", "bn1.running_mean", "linear.bias"])
def test_whatever_moves_is_taken_up(digits, name):
    """A bias or a statistic that alone moves changes the loss as it does naively."""
    network = resnet()
    state = network.state_dict()
    directions = {"alpha": {name: torch.ones_like(state[name])}}
    objective = objective_of(network, digits, directions)
    values = []
    for step in (0.0, 0.5, -0.5):
        shifted = copy.deepcopy(network).double()
        shifted.state_dict()[name].add_(step)
        expected = naive(shifted, digits, {"alpha": {}, "beta": {}}, Cell(0.0))
        found = objective.losses(Cell(step))
        assert found["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-5)
        values.append(found["train_loss"])
    assert len(set(values)) == 3


@pytest.mark.parametrize("scale", [0.5, 1e3, 1e7])
def test_what_overflows_is_undefined_as_in_the_network_itself(digits, scale):
    """A fused ReLU makes 0 of NaN, so cells that overflow are the network's own work."""
    network = resnet()
    direction = {n: scale * p.detach() for n, p in network.named_parameters() if p.ndim == 4}
    objective = objective_of(network, digits, {"alpha": direction})
    found = objective.losses(Cell(1.0))
    moved = copy.deepcopy(network)
    with torch.inference_mode():
        for name, step in direction.items():
            moved.get_parameter(name).add_(step)
        for split, content in digits.splits.items():
            output = moved(data.normalized(digits, split, torch.float32)).double()
            expected = F.cross_entropy(output, content.y)
            torch.testing.assert_close(
                torch.tensor(found[f"{split}_loss"]).double(),
                expected,
                equal_nan=True,
                rtol=1e-4,
                atol=0.0,
            )
    assert math.isnan(found["train_loss"]) == (scale > 1)
    assert objective.losses(Cell(0.0)) == objective_of(
        network, digits, {"alpha": direction}
    ).losses(Cell(0.0))


@pytest.mark.parametrize("between", ["nothing", "exact losses", "other weights", "another cell"])
@pytest.mark.parametrize("kind", ["everything", "weights", "own network", "bfloat16"])
def test_a_cell_whose_numbers_were_made_ahead_has_the_same_bytes(kind, between):
    """Whatever comes between the two, and whether layers are folded or not."""
    disturb = {
        "nothing": lambda o: None,
        "exact losses": lambda o: o.exact_losses(CELLS[2]),
        "other weights": lambda o: o.losses_of(visit),
        "another cell": lambda o: o.losses(CELLS[2]),
    }
    plain, ahead = (small_objective(kind, curvature=None) for _ in range(2))
    ahead._network._works_ahead = True  # as on a GPU
    expected = [plain.losses(cell) for cell in CELLS]
    found = [ahead.losses(CELLS[0], CELLS[1])]
    assert ahead._network._ahead == CELLS[1]
    disturb[between](ahead)
    assert (ahead._network._ahead is None) == (between != "nothing")
    found.append(ahead.losses(CELLS[1], CELLS[2]))
    found.append(ahead.losses(CELLS[2]))
    assert found == expected
