"""Walks of checkpoints in parameter space, as rows of a matrix and as named tensors."""

from __future__ import annotations

import math

import numpy as np
import torch
from sklearn.decomposition import PCA

from lsengine.geometry.parameters import CheckpointVectors

SHAPES = {"conv.weight": (4, 3, 2, 2), "fc.bias": (5,), "fc.weight": (5, 7), "scale": ()}
SIZE = sum(math.prod(shape) for shape in SHAPES.values())
NAMES = list(SHAPES)


def named(vector, shapes=SHAPES):
    """Cut a vector into parameters."""
    pieces = torch.as_tensor(vector).split([math.prod(s) for s in shapes.values()])
    return {n: p.reshape(s) for (n, s), p in zip(shapes.items(), pieces, strict=True)}


def flat(parameters, names=NAMES):
    """Join parameters into a vector, in float64."""
    return np.concatenate([parameters[n].double().numpy().ravel() for n in names])


def walk(count, *, size=SIZE, seed=0, dtype=np.float64):
    """A random walk with drift, far from zero: (count, size)."""
    rng = np.random.default_rng(seed)
    steps = rng.standard_normal((count, size)) * 0.1 + 0.02 * rng.standard_normal(size)
    return (3 * rng.standard_normal(size) + steps.cumsum(axis=0)).astype(dtype)


def vectors(rows, names=NAMES):
    """Return checkpoints with these rows, (T, P)."""
    return CheckpointVectors(lambda index: named(rows[index]), len(rows), names)


def pca_of(rows):
    """Return scikit-learn's PCA of differences to the final checkpoint."""
    differences = rows.astype(np.float64) - rows[-1].astype(np.float64)
    return PCA(svd_solver="full").fit(differences)
