"""Batches judged by objectives, and outputs of several tensors by losses, against naive loops."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from lsengine import data
from lsengine.errors import EnvironmentUnfit
from lsengine.objective import EvaluationSettings, Objective
from lsengine.objective.criterion import OwnObjective
from lsengine.objective.summary import Summary
from lsengine.surface.grid import Cell

CELLS = [Cell(0.0), Cell(0.3), Cell(-0.6)]


def _objective(network, split, criterion, precision="float64", batch_size=4, classes=None, **more):
    """Return an objective of every parameter, each of which moves by alpha."""
    dataset = data.Dataset(splits={"train": split}, mean=None, std=None, classes=classes)
    along = {"alpha": {n: torch.ones_like(p) for n, p in network.named_parameters()}}
    settings = EvaluationSettings(
        device=torch.device("cpu"), precision=precision, batch_size=batch_size, fuses=False, **more
    )
    return Objective(copy.deepcopy(network), dataset, criterion, along, settings)


def _own(function):
    return OwnObjective("mine:judge", function)


class _Decay(nn.Module):
    """u(t) = a exp(-b t)."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(1.2)), nn.Parameter(torch.tensor(0.4))

    def forward(self, t):
        return self.a * torch.exp(-self.b * t)


def _residual(network, t):
    """Return the squared residual of u' = -u at every time."""
    t.requires_grad_()
    u = network(t)
    (slope,) = torch.autograd.grad(u.sum(), t, create_graph=True)
    return (slope + u).square().squeeze(1)


TIMES = torch.linspace(0, 2, 10).unsqueeze(1)


def _residual_and_hessian(a, b):
    """Return mean and Hessian by (a, b) of (b - 1)^2 a^2 exp(-2 b t), by hand."""
    t = TIMES.numpy().astype(float)[:, 0]
    e, c = np.exp(-2 * b * t), b - 1
    loss = (c**2 * a**2 * e).mean()
    aa = (2 * c**2 * e).mean()
    ab = (2 * a * e * (2 * c - 2 * c**2 * t)).mean()
    bb = (a**2 * e * (2 - 8 * c * t + 4 * c**2 * t**2)).mean()
    return loss, np.array([[aa, ab], [ab, bb]])


@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
def test_the_residual_of_an_equation_is_that_by_hand(precision, tolerance):
    """An objective that differentiates by inputs, and its Hessian; the data stay as they are."""
    objective = _objective(_Decay(), data.Split(TIMES, None), _own(_residual), precision)
    for cell in (*CELLS, CELLS[0]):
        a, b = 1.2 + cell.alpha, 0.4 + cell.alpha
        loss, matrix = _residual_and_hessian(np.float32(a), np.float32(b))
        assert objective.losses(cell)["train_loss"] == pytest.approx(loss, rel=1e-6 + tolerance)
        hessian = objective.hessian(cell)
        found = [hessian(row).tolist() for row in torch.eye(2, dtype=hessian.dtype)]
        np.testing.assert_allclose(found, matrix, rtol=2e-6 + 10 * tolerance)
    assert objective.forward == "eager, gradients recorded, inputs copied"


class _Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.other = nn.Linear(3, 4), nn.Linear(3, 4)

    def forward(self, x):
        raise AssertionError("an objective may call parts of a network")


def _contrast(network, batch):
    """InfoNCE: of each sample the other view is to be told from those of the whole batch."""
    x, y = batch
    a, b = network.first(x), network.other(y)
    similar = torch.cosine_similarity(a[:, None], b[None], dim=-1) / 0.2
    return -torch.log_softmax(similar, 1).diagonal()


def test_a_contrastive_loss_is_that_of_a_double_loop_over_fixed_batches():
    """Batches are in the order of the data, the last one is smaller, all samples count alike."""
    torch.manual_seed(1)
    x, y, network = torch.randn(10, 3), torch.randn(10, 3), _Encoder()
    objective = _objective(network, data.Split(x, y), _own(_contrast), keeps_batches=True)
    for cell in CELLS:
        weights = {
            n: p.detach().double().numpy() + cell.alpha for n, p in network.named_parameters()
        }
        a = x.double().numpy() @ weights["first.weight"].T + weights["first.bias"]
        b = y.double().numpy() @ weights["other.weight"].T + weights["other.bias"]
        losses = []
        for batch in ([0, 1, 2, 3], [4, 5, 6, 7], [8, 9]):
            for i in batch:
                row = [
                    a[i] @ b[j] / np.linalg.norm(a[i]) / np.linalg.norm(b[j]) / 0.2 for j in batch
                ]
                losses.append(math.log(sum(map(math.exp, row))) - row[batch.index(i)])
        found = objective.losses(cell)
        assert found["train_loss"] == pytest.approx(np.mean(losses), rel=1e-10)
        error = np.std(losses, ddof=1) / math.sqrt(10)
        assert found["train_loss_se"] == pytest.approx(error, rel=1e-10)
    hessian = objective.hessian(CELLS[-1])
    model = copy.deepcopy(network).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += CELLS[-1].alpha
    views = [*zip(x.double().split(4), y.double().split(4), strict=True)]
    mean = sum(_contrast(model, batch).sum() for batch in views) / 10
    parameters = [*model.parameters()]
    gradient = torch.autograd.grad(mean, parameters, create_graph=True)
    rows = torch.autograd.grad(sum(g.sum() for g in gradient), parameters)
    expected = torch.cat([row.flatten() for row in rows]).tolist()
    product = hessian(torch.ones(hessian.size, dtype=torch.float64)).tolist()
    assert product == pytest.approx(expected, rel=1e-6, abs=1e-8)


def _judged(network, batch):
    """Return the loss and, as metrics, Brier score, exact match, calibration and perplexity."""
    x, y = batch.pop("x"), batch["y"]
    probabilities = network(x).softmax(1)
    sure, answer = probabilities.max(1)
    right = answer == y
    truth = nn.functional.one_hot(y, 3)
    of_bin = nn.functional.one_hot((sure * 5).long().clamp(max=4), 5)
    each = -probabilities.gather(1, y[:, None])[:, 0].log()
    return {
        "loss": (each, batch["mask"]),
        "brier": (probabilities - truth).square().sum(1),
        "match": right,
        "gap": Summary((sure - right.float())[:, None] * of_bin, lambda m: m.abs().sum()),
        "perplexity": Summary(each[:, None], lambda m: m.exp().sum(), batch["mask"]),
    }


@pytest.mark.parametrize("batch_size", [3, 100])
def test_metrics_are_those_of_all_samples_by_numpy(batch_size):
    """Brier score, exact match, and two that are no means: calibration error and perplexity."""
    torch.manual_seed(2)
    x, y, mask = torch.randn(20, 3), torch.arange(20) % 3, torch.arange(20) % 4
    batch, network = {"x": x, "y": y, "mask": mask}, nn.Linear(3, 3)
    objective = _objective(network, data.Split(batch, None), _own(_judged), batch_size=batch_size)
    for cell in (*CELLS, CELLS[0]):
        weight, bias = (p.detach().double().numpy() for p in network.parameters())
        logits = x.double().numpy() @ (weight + cell.alpha).T + bias + cell.alpha
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        sure, right = p.max(1), p.argmax(1) == y.numpy()
        each, w = -np.log(p[np.arange(20), y]), mask.numpy()
        bins = np.minimum((sure * 5).astype(int), 4)
        gaps = [((sure - right)[bins == k]).sum() / 20 for k in range(5)]
        loss = (each * w).sum() / w.sum()
        expected = {
            "train_loss": loss,
            "train_brier": np.square(p - np.eye(3)[y]).sum(1).mean(),
            "train_match": right.mean(),
            "train_match_se": np.std(right, ddof=1) / math.sqrt(20),
            "train_gap": np.abs(gaps).sum(),
            "train_perplexity": math.exp(loss),
        }
        found = objective.losses(cell)
        assert {n: found[n] for n in expected} == pytest.approx(expected, rel=1e-10)
        assert list(found) == [
            *("train_loss", "train_loss_se", "train_brier", "train_brier_se", "train_match"),
            *("train_match_se", "train_gap", "train_perplexity"),
        ]


def test_a_batch_that_values_may_depend_on_is_not_cut():
    """Where memory ends, the message says what may be given instead."""

    def hungry(network, batch):
        if len(batch[0]) > 2:
            raise MemoryError("out of memory")
        return _contrast(network, batch)

    split = data.Split(torch.randn(10, 3), torch.randn(10, 3))
    with pytest.raises(EnvironmentUnfit, match=r"batch of 4 samples .* smaller batch_size"):
        _objective(_Encoder(), split, _own(hungry), keeps_batches=True).losses(Cell(0.0))
    assert _objective(_Encoder(), split, _own(hungry)).losses(Cell(0.0))["train_loss"] > 0


class _Masked(nn.Module):
    """A mean over the places of a mask, by name; several outputs."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.outer = nn.Linear(2, 4), nn.Linear(4, 3)

    def forward(self, mask, x):
        hidden = self.inner(x).tanh() * mask[..., None]
        pooled = hidden.sum(1) / mask.sum(1, keepdim=True)
        return {"logits": self.outer(pooled), "pooled": pooled, "cache": None}


@pytest.mark.parametrize("batch_size", [3, 100])
def test_a_loss_of_ones_own_gets_all_outputs(batch_size):
    """Inputs go by name, with a mask of true and false; outputs come as a dict in float64."""
    torch.manual_seed(1)
    x, y = torch.randn(10, 5, 2), torch.randn(10, 3)
    mask = torch.rand(10, 5) > 0.4
    mask[:, 0] = True

    def loss(output, target):
        assert output.keys() == {"logits", "pooled"}
        assert output["pooled"].dtype == target.dtype == torch.float64
        return (output["logits"] - target).square().mean(1) + output["pooled"].abs().sum(1)

    network = _Masked()
    split = data.Split({"x": x, "mask": mask}, y)
    objective = _objective(network, split, loss, batch_size=batch_size)
    for cell in CELLS:
        w = {n: p.detach().double().numpy() + cell.alpha for n, p in network.named_parameters()}
        losses = []
        for n in range(10):
            rows = [
                np.tanh(w["inner.weight"] @ x[n, t].double().numpy() + w["inner.bias"])
                for t in range(5)
                if mask[n, t]
            ]
            pooled = np.mean(rows, axis=0)
            output = w["outer.weight"] @ pooled + w["outer.bias"]
            losses.append(np.square(output - y[n].numpy()).mean() + np.abs(pooled).sum())
        assert objective.losses(cell)["train_loss"] == pytest.approx(np.mean(losses), rel=1e-10)
    hessian, flat = objective.hessian(CELLS[-1]), []
    moved = {n: torch.from_numpy(w[n]).requires_grad_() for n in hessian.names}
    output = functional_call(network, moved, (mask, x.double()))
    mean = loss({n: output[n] for n in ("logits", "pooled")}, y.double()).mean()
    gradient = torch.autograd.grad(mean, moved.values(), create_graph=True)
    for part in torch.autograd.grad(sum(g.sum() for g in gradient), moved.values()):
        flat.extend(part.flatten().tolist())
    found = hessian(torch.ones(hessian.size, dtype=torch.float64)).tolist()
    assert found == pytest.approx(flat, rel=1e-6, abs=1e-8)
    values = objective.values_of_samples({"train": [7, 2, 5, 0]}, CELLS[-1])["train"]
    assert values.losses.tolist() == pytest.approx([losses[n] for n in (7, 2, 5, 0)], rel=1e-10)
