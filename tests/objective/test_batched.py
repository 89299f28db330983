"""Several cells of a small network in one pass."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lsengine import store
from lsengine.data import Dataset, Split
from lsengine.engine import Options, evaluate
from lsengine.errors import SurfaceError
from lsengine.objective import EvaluationSettings, Objective, batched
from lsengine.objective.builtin import cross_entropy
from lsengine.objective.losses import loss_function
from lsengine.surface.grid import Cell
from tests.support.jobs import values
from tests.support.surfaces import edited

CELLS = [Cell(a, b) for a in (-0.7, 0.0, 0.4) for b in (0.0, 0.3)]


def _stack(*, norm=False, activation=nn.ReLU, bias=True):
    torch.manual_seed(3)
    middle = [nn.BatchNorm1d(8)] if norm else []
    inner = nn.Sequential(nn.Linear(8, 8, bias=bias), *middle, activation())
    first = [nn.Linear(6, 8, bias=bias), *([nn.BatchNorm1d(8, affine=False)] if norm else [])]
    model = nn.Sequential(nn.Flatten(), *first, activation(), inner, nn.Dropout(), nn.Linear(8, 3))
    for name, buffer in model.named_buffers():
        if name.endswith(("mean", "var")):
            buffer.uniform_(0.5, 1.5)
    return model


def _objective(model, *, precision="float64", loss="cross_entropy", moved=None, y=None):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(300, 2, 3, generator=generator)
    y = torch.randint(3, (300,), generator=generator) if y is None else y
    classes = None if y.is_floating_point() else 3
    dataset = Dataset(
        splits={"train": Split(x, y), "test": Split(x[:31], y[:31])},
        mean=None,
        std=None,
        classes=classes,
    )
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    names = [n for n, t in named.items() if t.is_floating_point() and (moved is None or n in moved)]
    directions = {
        axis: {n: 0.1 * torch.rand(named[n].shape, generator=generator) for n in names}
        for axis in ("alpha", "beta")
    }
    settings = EvaluationSettings(device=torch.device("cpu"), precision=precision, batch_size=200)
    return Objective(model, dataset, loss_function(loss, job_folder=Path()), directions, settings)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.GELU])
def test_a_group_has_the_values_of_its_cells_one_by_one(norm, bias, activation):
    """Losses, error bars and accuracies agree to rounding, whatever layers there are."""
    objective = _objective(_stack(norm=norm, bias=bias, activation=activation))
    together = objective.losses_of_group(CELLS)
    for cell, found in zip(CELLS, together, strict=True):
        expected = objective.losses(cell)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert math.isclose(found[name], value, rel_tol=1e-12, abs_tol=1e-14), (cell, name)
    assert len({found["train_loss"] for found in together}) == len(CELLS)


@pytest.mark.parametrize("moved", [["1.weight"], ["3.0.bias", "5.weight"], ["2.running_var"]])
def test_what_does_not_move_stays(moved):
    """Layers that do not move, or only in part, are those of the centre for every cell."""
    model = _stack(norm=True)
    names = [n for n in (*dict(model.named_parameters()), *dict(model.named_buffers()))]
    kept = [name for name in moved if name in names] or ["1.weight"]
    objective = _objective(model, moved=kept)
    for cell, found in zip(CELLS, objective.losses_of_group(CELLS), strict=True):
        assert math.isclose(
            found["train_loss"], objective.losses(cell)["train_loss"], rel_tol=1e-12
        )


def test_other_losses_and_targets_are_the_same_too():
    """Mean squared error of numbers, of classes, and cross entropy of probabilities."""
    generator = torch.Generator().manual_seed(2)
    probabilities = torch.rand(300, 3, generator=generator).softmax(1)
    for loss, y in (("mse", probabilities), ("mse", None), ("cross_entropy", probabilities)):
        objective = _objective(_stack(), loss=loss, y=y)
        for cell, found in zip(CELLS, objective.losses_of_group(CELLS), strict=True):
            expected = objective.losses(cell)
            assert found.keys() == expected.keys()
            assert found == pytest.approx(expected, rel=1e-12, abs=1e-14)


def test_values_that_are_not_finite_are_those_of_the_cells_one_by_one():
    """Infinite and undefined outputs give the same losses and hits in a group."""
    model = _stack()
    objective = _objective(model)
    cells = [Cell(1e200), Cell(0.0), Cell(-1e300, 1e300), Cell(float("inf"))]
    for cell, found in zip(cells, objective.losses_of_group(cells), strict=True):
        expected = objective.losses(cell)
        for name, value in expected.items():
            assert np.array_equal(found[name], value, equal_nan=True) or math.isclose(
                found[name], value, rel_tol=1e-12
            ), (cell, name, found[name], value)


def test_equal_largest_outputs_count_as_in_cells_one_by_one():
    """Of outputs that are all the same the first class is the prediction, in a group, too."""
    model = _stack()
    for parameter in model[-1].parameters():
        parameter.data.zero_()
    objective = _objective(model)
    cells = [Cell(0.0), Cell(1.0), Cell(0.0)]
    for cell, found in zip(cells, objective.losses_of_group(cells), strict=True):
        expected = objective.losses(cell)
        assert found == pytest.approx(expected, rel=1e-12)
    assert 0.2 < objective.losses(Cell(0.0))["train_accuracy"] < 0.5


def test_tiny_losses_keep_their_digits_in_float32():
    """Of logits that are hundreds apart and hardly apart, as exact as the logits themselves."""
    generator = torch.Generator().manual_seed(3)
    scales = torch.tensor([0.1, 1, 10, 40])[:, None, None]
    logits = torch.randn(4, 10, 50, generator=generator) * scales
    logits[2, 3] += 60
    targets = torch.full((50,), 3)
    found, hits = batched.losses_and_hits(cross_entropy, logits, targets)
    exact = torch.nn.functional.cross_entropy(
        logits.double().transpose(1, 2).flatten(0, 1), targets.repeat(4), reduction="none"
    ).view(4, 50)
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-15)
    assert exact.min() < 1e-9
    assert torch.equal(hits, logits.argmax(1) == 3)


def test_a_cells_companions_do_not_matter_on_a_cpu():
    """The same bits in any company, and at any place among them."""
    objective = _objective(_stack(norm=True), precision="float32")
    whole = objective.losses_of_group(CELLS)
    assert objective.losses_of_group(CELLS[::-1])[::-1] == whole


@pytest.mark.parametrize(
    ("model", "shape", "expected"),
    [
        (nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)), [6], 64),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Linear(32, 3)), [1, 8, 8], 32),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 65), nn.Linear(65, 3)), [1, 8, 8], 1),
        (nn.Sequential(nn.Linear(8, 8)), [1, 8, 8], 1),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 3)), [1, 8, 8], 1),
        (nn.Sequential(nn.Linear(6, 8), nn.PReLU(), nn.Linear(8, 3)), [6], 1),
        (nn.Linear(6, 3), [6], 64),
    ],
)
def test_only_small_stacks_of_linear_layers_are_grouped(model, shape, expected):
    """By arithmetic on shapes; wide layers, convolutions and layers not known go one by one."""
    assert batched.cells_per_pass(model, shape) == expected


def test_groups_are_a_fixed_partition_whatever_is_missing(make_job):
    """Cells forgotten here and there come back with the same bytes, from their own groups."""
    job = make_job(cells_per_pass="auto", grid={"alpha": [-1, 1, 11], "beta": [-0.5, 1, 10]})
    assert evaluate([job], Options(progress="none"), world=None) == 0
    path = job.with_suffix(".h5")
    assert store.read_attributes(path)["cells_per_pass"] == 64
    whole = values(path)
    with edited(path) as file:
        for index in (0, 3, 57, 109):
            place = divmod(index, 11)
            file["status"][place] = 0
            file["train_loss"][place] = np.nan
    assert evaluate([job], Options(progress="none"), world=None) == 0
    assert values(path) == whole


def test_any_ranks_and_shards_of_groups_give_the_same_bytes(make_job, pool):
    """Three ranks, and a run cell by cell in the order of chunks of one, write the same values."""
    grid = {"alpha": [-1, 1, 13], "beta": [-1, 1, 11]}
    alone, many = (make_job(n, cells_per_pass="auto", grid=grid) for n in ("alone", "many"))
    assert evaluate([alone], Options(progress="none"), world=None) == 0
    assert pool.evaluate(many, 3, chunk=1)["code"] == 0
    assert values(many.with_suffix(".h5")) == values(alone.with_suffix(".h5"))


def test_one_by_one_is_the_default_and_another_job(make_job):
    """Groups change last bits, so asking for them is part of a job's fingerprint."""
    job = make_job()
    assert evaluate([job], Options(progress="none"), world=None) == 0
    assert store.read_attributes(job.with_suffix(".h5"))["cells_per_pass"] == 1
    with pytest.raises(SurfaceError, match='cells_per_pass is "auto" in the job'):
        evaluate([make_job(cells_per_pass="auto")], Options(progress="none"), world=None)
    grouped = make_job("grouped", cells_per_pass="auto")
    assert evaluate([grouped], Options(progress="none"), world=None) == 0
    found, expected = (store.read(j.with_suffix(".h5")).quantities for j in (grouped, job))
    for name, values_BA in expected.items():
        np.testing.assert_allclose(found[name], values_BA, rtol=1e-5)
