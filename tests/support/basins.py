"""Surfaces whose flatness figures are known."""

from __future__ import annotations

import numpy as np

from lsengine.report import compare
from lsengine.report.flatness import Level, Measure
from lsengine.surface import DONE, Surface

A, B, H = 4.0, 9.0, 1.0  # of the bowl 0.3 + A alpha^2 + B beta^2, and the level above 0.3


def bowl(x, y):
    """Return an elliptic bowl."""
    return 0.3 + A * x**2 + B * y**2


def plane(f=bowl, alphas=81, betas=61, reach=(1.0, 0.8), **given) -> Surface:
    """Return a plane of ``f`` with more alphas than betas."""
    alpha, beta = np.linspace(-reach[0], reach[0], alphas), np.linspace(-reach[1], reach[1], betas)
    x, y = np.meshgrid(alpha, beta)
    values = np.asarray(f(x, y), dtype=np.float64)
    status = given.get("status", np.full(values.shape, DONE, np.uint8))
    quantities = {"train_loss": values, "test_accuracy": np.full(values.shape, 0.93)}
    return Surface(
        name="plane",
        source="plane.h5",
        axes={"beta": beta, "alpha": alpha},
        quantities=quantities,
        status=status,
    )


def curve(steep=(A,), alphas=81, reach=1.0) -> Surface:
    """Return parabolas along alpha, as repeats if there are several."""
    alpha = np.linspace(-reach, reach, alphas)
    values = 0.3 + np.outer(steep, alpha**2)
    axes = {"repeat": np.arange(float(len(steep)))} if len(steep) > 1 else {}
    values = values if len(steep) > 1 else values[0]
    status = np.full(values.shape, DONE, np.uint8)
    return Surface(
        name="curve",
        source="c.h5",
        axes={**axes, "alpha": alpha},
        quantities={"train_loss": values},
        status=status,
    )


def figures(surface: Surface, level: str = "+1") -> dict[str, Measure]:
    """Return the measures of one surface."""
    return compare.compare([surface], level=Level.parse(level)).rows[0].measures
