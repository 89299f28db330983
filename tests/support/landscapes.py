"""Analytic surfaces whose pictures are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsengine.surface import DONE, Surface

Function = Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]


def bowl(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """Return a circular paraboloid, 1 at the centre."""
    return 1.0 + 4.0 * (a**2 + b**2)


def cliffs(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """Return a basin walled by cliffs over six decades."""
    r = np.hypot(a, b)
    return 0.2 * 10 ** (
        np.clip(5.2 * (r - 0.2), 0, None) * (1 + 0.3 * np.sin(9 * a) * np.cos(7 * b))
    )


def make_plane(f: Function = bowl, alphas: int = 21, betas: int = 21, **given: Any) -> Surface:
    """Return a finished plane of ``f`` as training loss, with a test accuracy."""
    given = {"name": "plane", "reach": (1.0, 1.0)} | given
    axes = {
        "beta": np.linspace(-given["reach"][1], given["reach"][1], betas),
        "alpha": np.linspace(-given["reach"][0], given["reach"][0], alphas),
    }
    a, b = np.meshgrid(axes["alpha"], axes["beta"])
    quantities = {"train_loss": f(a, b), "test_accuracy": 0.93 * np.exp(-(a**2) - b**2)}
    status = given.get("status", np.full(a.shape, DONE, np.uint8))
    name = given["name"]
    return Surface(name=name, source=f"{name}.h5", axes=axes, quantities=quantities, status=status)


def make_curve(repeats: int = 0, alphas: int = 51, **given: Any) -> Surface:
    """Return a finished curve with losses and accuracies; ``repeats`` steepnesses."""
    alpha = np.linspace(-1.0, 1.0, alphas)
    steep = 1.0 + 0.1 * np.arange(max(repeats, 1))
    train = 0.02 + np.expm1(3.0 * np.outer(steep, alpha**2))
    train = train if repeats else train[0]
    quantities = {
        "train_loss": train,
        "test_loss": train + 0.3,
        "train_accuracy": np.exp(-train / 6),
        "test_accuracy": 0.95 * np.exp(-train / 6),
    }
    axes = {"repeat": np.arange(repeats, dtype=float)} if repeats else {}
    axes["alpha"] = alpha
    name = given.get("name", "curve")
    status = given.get("status", np.full(train.shape, DONE, np.uint8))
    return Surface(name=name, source=f"{name}.h5", axes=axes, quantities=quantities, status=status)
