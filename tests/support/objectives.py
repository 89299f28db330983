"""Networks, their objectives, and a naive evaluation to compare with."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from lsengine import data, models
from lsengine.curvature import LanczosOptions
from lsengine.geometry.directions import draw, normalized
from lsengine.job.schema import ModelSpec
from lsengine.objective import EvaluationSettings, Objective
from lsengine.objective.losses import loss_function
from lsengine.surface.grid import Cell

CELLS = [Cell(0.0, 0.0), Cell(0.7, -0.4), Cell(-1.0, 1.0)]


def resnet():
    """Return a small residual network whose statistics are not those of a new one."""
    torch.manual_seed(1)
    network = models.build(
        ModelSpec(arch="resnet20"), channels=1, classes=10, size=(8, 8), job_folder=Path()
    )
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
    return network.eval()


def filter_normalized(network):
    """Return two directions in which the weights move, each filter as long as the network's."""
    weights = {n: p.detach() for n, p in network.named_parameters() if p.ndim > 1}
    return {
        axis: normalized(draw(weights, seed=1, axis=i), weights, "filter")
        for i, axis in enumerate(("alpha", "beta"))
    }


def moved(network, directions, cell):
    """Return a copy of a network in float64, with the directions added."""
    copied = copy.deepcopy(network).double()
    with torch.no_grad():
        for name, parameter in copied.named_parameters():
            for step, axis in ((cell.alpha, "alpha"), (cell.beta, "beta")):
                if name in directions[axis]:
                    parameter += step * directions[axis][name].double()
    return copied


def naive(network, dataset, directions, cell):
    """Copy the model, add the directions, run everything at once in float64."""
    copied = moved(network, directions, cell)
    with torch.no_grad():
        metrics = {}
        for split, content in dataset.splits.items():
            output = copied(data.normalized(dataset, split, torch.float64))
            losses = F.cross_entropy(output, content.y, reduction="none")
            metrics[f"{split}_loss"] = float(losses.mean())
            metrics[f"{split}_loss_se"] = float(losses.std() / math.sqrt(len(losses)))
            metrics[f"{split}_accuracy"] = float((output.argmax(1) == content.y).double().mean())
    return metrics


def objective_of(
    network, dataset, directions, precision="float32", batch_size=64, repeats=False, **more
):
    """Return the objective of a copy of a network, with cross entropy on a CPU."""
    more = {"device": torch.device("cpu"), **more}
    settings = EvaluationSettings(precision=precision, batch_size=batch_size, **more)
    loss = loss_function("cross_entropy", job_folder=Path())
    network = copy.deepcopy(network)
    return Objective(network, dataset, loss, directions, settings, repeats=repeats)


def visit(model):
    """Put the numbers of another network into a model: weights, biases and statistics."""
    generator = torch.Generator().manual_seed(7)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.copy_(0.1 + 0.2 * torch.rand(tensor.shape, generator=generator))


def small_objective(kind, **more):
    """Return an objective of a small network with normalisations, never evaluated so far."""
    torch.manual_seed(5)
    hidden = [nn.Linear(12, 6), nn.BatchNorm1d(6), nn.ReLU()]
    network = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(6, 3))
    network[2].running_mean.uniform_(-0.5, 0.5)
    network[2].running_var.uniform_(0.5, 2)
    x, y = torch.randn(40, 1, 3, 4), torch.arange(40) % 3
    dataset = data.Dataset(splits={"train": data.Split(x, y)}, mean=None, std=None, classes=3)
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    moving = {
        name: tensor
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and (kind == "everything" or tensor.ndim > 1)
    }
    directions = {
        axis: {name: 0.1 * torch.rand(tensor.shape) for name, tensor in moving.items()}
        for axis in ("alpha", "beta")
    }
    settings = EvaluationSettings(
        device=torch.device("cpu"),
        precision=kind if kind in ("bfloat16", "float64") else "float32",
        batch_size=16,
        batch_norm="recalibrated" if kind == "recalibrated" else "frozen",
        recalibration=(32, 16),
        fuses=kind != "own network",
        **{"curvature": LanczosOptions(max_products=4, basis=4), **more},
    )
    loss = loss_function("cross_entropy", job_folder=Path())
    return Objective(network, dataset, loss, directions, settings)
