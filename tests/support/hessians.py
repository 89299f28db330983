"""Operators whose spectra are known: dense matrices, and small networks solved densely."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from lsengine.curvature import Hessian
from lsengine.models import resnet


def cross_entropy(output, target):
    """Return one loss per sample, as the objective's loss does."""
    return F.cross_entropy(output, target, reduction="none")


@dataclass
class Matrix:
    """A dense symmetric matrix as an operator that counts its products."""

    matrix: torch.Tensor
    products: int = 0
    size: int = field(init=False)

    def __post_init__(self):
        self.size, self.dtype, self.device = len(self.matrix), self.matrix.dtype, self.matrix.device

    def __call__(self, vector):
        """Return the product."""
        self.products += 1
        return self.matrix @ vector


def with_spectrum(eigenvalues, *, seed=0, dtype=torch.float64):
    """Return a matrix with these eigenvalues in a random basis, and that basis."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.as_tensor(eigenvalues, dtype=torch.float64)
    square = torch.randn(len(values), len(values), generator=generator, dtype=torch.float64)
    basis, _ = torch.linalg.qr(square)
    return Matrix(((basis * values) @ basis.T).to(dtype)), basis


@dataclass
class Case:
    """A network in evaluation mode with data, its operator and its dense Hessian."""

    model: nn.Module
    inputs: torch.Tensor
    targets: torch.Tensor
    loss: Callable = cross_entropy

    def batches(self, *sizes):
        """Cut the data into batches of these sizes."""
        return list(zip(self.inputs.split(sizes), self.targets.split(sizes), strict=True))

    def hessian(self, **options):
        """Return the operator over batches of unequal sizes."""
        rest = len(self.inputs) - 10
        return Hessian(self.model, self.batches(7, 3, rest), self.loss, **options)

    def dense(self, names=None):
        """Return the Hessian of the mean loss by differentiating a flat function twice."""
        every = {k: p.detach() for k, p in self.model.named_parameters()}
        chosen = list(every if names is None else names)
        shapes = [every[k].shape for k in chosen]

        def mean_loss(flat):
            pieces = flat.split([s.numel() for s in shapes])
            moved = {k: p.view(s) for k, p, s in zip(chosen, pieces, shapes, strict=True)}
            output = functional_call(self.model, {**every, **moved}, (self.inputs,))
            return self.loss(output, self.targets).mean()

        return torch.func.hessian(mean_loss)(torch.cat([every[k].flatten() for k in chosen]))


def _trained(model, inputs, targets, steps):
    """Take gradient steps in training mode, so that running statistics are the data's."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    with torch.no_grad():
        for _ in range(30):  # let running statistics catch up with the last weights
            model(inputs)
    return model.eval().requires_grad_(False)


@functools.cache
def network(kind, steps):
    """Return a ``small`` network, an ``mlp`` or a ``resnet`` with data it fits, in float64.

    One network per process: whoever changes it changes a copy.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        if kind == "resnet":
            model, shape = resnet.cifar(8, channels=1, classes=3, width=1), (20, 1, 8, 8)
        else:
            samples, features, width = {"small": (30, 5, 6), "mlp": (40, 6, 8)}[kind]
            layers = [nn.Linear(features, width), nn.BatchNorm1d(width), nn.Tanh()]
            model = nn.Sequential(*layers, nn.Linear(width, 3))
            shape = (samples, features)
        inputs = torch.randn(shape, generator=generator, dtype=torch.float64)
        targets = torch.randint(0, 3, shape[:1], generator=generator)
        return Case(_trained(model.double(), inputs, targets, steps), inputs, targets)


@functools.cache
def solved(kind, steps):
    """Return a network, its dense Hessian and that one's eigenvalues."""
    case = network(kind, steps)
    matrix = case.dense()
    return case, matrix, torch.linalg.eigvalsh(matrix).numpy()


def random_vector(size, seed=0, dtype=torch.float64):
    """Return a Gaussian vector."""
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


SPECTRA = {
    "indefinite": np.linspace(-3, 5, 300),
    "positive": np.geomspace(1e-6, 10, 300),
    "negative": -np.geomspace(1e-2, 10, 300),
    "near twins at both ends": np.r_[-1, -1 + 1e-7, np.linspace(-0.5, 1, 300), 2 - 1e-7, 2],
    "clusters": np.repeat([-2.0, 0.0, 7.0], 100),
    "network": np.r_[-0.02, -0.01 * np.random.default_rng(0).random(100), np.zeros(200), 0.5, 2],
}
