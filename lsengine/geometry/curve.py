"""Curves of low loss between two minima: Bezier curves and polygonal chains.

After Garipov et al. (2018), arXiv:1802.10026.  A curve is a list of control points, mappings
from parameter names to tensors: the two ends, which stay, and between them the bends, which
are trained so that the loss is low on average over the curve.  Running statistics of batch
norm are no part of a curve: they mean something for one point only and are computed anew
wherever the curve is evaluated.

Shape suffixes: C control points, S samples of the curve.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lsengine.geometry.parameters import (
    Floats,
    Parameters,
    dot,
    in_float64,
    in_precision_of,
    minus,
    norm,
    require_same,
)

KINDS = ("bezier", "polygonal")


@dataclass(frozen=True, slots=True)
class CurvePlane:
    """The plane through both ends and one bend.

    Attributes:
        directions: Two orthonormal directions: from the first end to the other, and
            from that line to the bend.  The centre is the first end.
        coordinates: (C, 2), of all control points; of further bends, those of the nearest
            point of the plane.
        distance: (C,), of control points from the plane.
    """

    directions: tuple[dict[str, Tensor], dict[str, Tensor]]
    coordinates: Floats
    distance: Floats


def coefficients(kind: str, bends: int, t: float) -> Floats:
    """Return the weights (C,) of the control points at ``t``; they add up to one.

    A Bezier curve has Bernstein's polynomials, ``binom(n, k) t^k (1 - t)^(n - k)`` with
    ``n = bends + 1``; a polygonal chain runs through its control points at ``t = k / n``.
    At 0 and 1 one weight is exactly 1 and the others 0.  Without bends both are the straight
    line.

    Raises:
        ValueError: If ``kind`` is unknown, ``bends`` negative, or ``t`` outside [0, 1].
    """
    if kind not in KINDS:
        raise ValueError(f"kind of curve: got {kind!r}; allowed: {', '.join(KINDS)}")
    if bends < 0 or not 0 <= t <= 1:
        raise ValueError(f"bends is at least 0 and t in [0, 1]; got {bends} and {t}")
    degree = bends + 1
    k_C = np.arange(degree + 1)
    if kind == "polygonal":
        weights_C: Floats = np.maximum(0.0, 1.0 - np.abs(t * degree - k_C))
        return weights_C
    return np.array([math.comb(degree, k) * t**k * (1 - t) ** (degree - k) for k in k_C])


def point(controls: Sequence[Parameters], kind: str, t: float) -> dict[str, Tensor]:
    """Return the parameters at ``t``, in the dtype and on the device of the control points.

    At 0 and 1 they are exactly the ends.

    Raises:
        ValueError: As for `coefficients`.
    """
    weights_C = coefficients(kind, len(controls) - 2, t).tolist()
    # Without weights of zero, so that an infinite number elsewhere does no harm.
    terms = [(w, c) for w, c in zip(weights_C, controls, strict=True) if w]
    weight, first = terms[0]
    total = {name: weight * tensor for name, tensor in first.items()}
    for weight, control in terms[1:]:
        for name, tensor in total.items():
            tensor.add_(control[name], alpha=weight)
    return total


def initial(start: Parameters, end: Parameters, bends: int) -> list[dict[str, Tensor]]:
    """Return control points spread evenly over the straight line between two ends.

    Raises:
        ValueError: If the ends differ in names or shapes, or ``bends`` is negative.
    """
    require_same(end, start, "the other end of the curve")
    return [point([start, end], "polygonal", k / (bends + 1)) for k in range(bends + 2)]


def barrier(losses: Floats, ts: Floats) -> float:
    """Return the height of the barrier along a curve.

    The largest excess of the loss over the straight line between the losses of the ends,
    ``max_t L(t) - (1 - t) L(0) - t L(1)``: the definition of Entezari et al. (2022),
    arXiv:2110.06296, there for the straight segment, here along any curve.  It is never
    negative; NaN if a loss is.  (Frankle et al. 2020, arXiv:1912.05671, compare with the mean of
    the ends instead; for ends of equal loss there is no difference.)

    Args:
        losses: (S,).
        ts: (S,), in any order.

    Raises:
        ValueError: If shapes differ, or one of the ends is not among ``ts``.
    """
    if losses.shape != ts.shape:
        raise ValueError(f"{[*losses.shape]} losses at {[*ts.shape]} values of t")
    if not ((ts == 0).any() and (ts == 1).any()):
        raise ValueError("the height of a barrier needs the loss of both ends: t = 0 and t = 1")
    start, end = losses[ts == 0][0], losses[ts == 1][0]
    return float((losses - (1 - ts) * start - ts * end).max())


def plane(controls: Sequence[Parameters], bend: int = 1) -> CurvePlane:
    """Return the plane through both ends and the bend-th bend, by the Gram-Schmidt process.

    Raises:
        ValueError: If there is no such bend, the ends are the same, or the bend lies on the
            line through them, all but for rounding.
    """
    if not 0 < bend < len(controls) - 1:
        raise ValueError(f"a curve of {len(controls) - 2} bend(s) has no bend {bend}")
    start = {name: in_float64(tensor) for name, tensor in controls[0].items()}
    eps = max(torch.finfo(t.dtype).eps for c in controls for t in c.values())
    rounding = eps * max(norm(control) for control in controls)  # may have moved a control point
    along = _unit(minus(controls[-1], start), rounding, "the ends are the same point")
    aside = minus(controls[bend], start)
    for _ in range(2):  # twice, so that a bend close to the line still gives a right angle
        aside = minus(aside, along, dot(aside, along))
    aside = _unit(aside, rounding, "the bend lies on the straight line between the ends")
    coordinates, distances = [], []
    for control in controls:
        offset = minus(control, start)
        x, y = dot(offset, along), dot(offset, aside)
        coordinates.append([x, y])
        distances.append(norm(minus(minus(offset, along, x), aside, y)))
    directions = in_precision_of(along, controls[0]), in_precision_of(aside, controls[0])
    return CurvePlane(directions, np.array(coordinates), np.array(distances))


def curve_in_plane(plane: CurvePlane, kind: str, ts: Floats) -> Floats:
    """Return the coordinates (S, 2) of the curve in a plane.

    Projection is linear, so they are the curve of the control points' coordinates.
    """
    points = plane.coordinates
    return np.stack([coefficients(kind, len(points) - 2, float(t)) @ points for t in ts])


def _unit(vector: Parameters, rounding: float, otherwise: str) -> dict[str, Tensor]:
    length = norm(vector)
    if length <= rounding:
        raise ValueError(f"there is no plane through these points: {otherwise}")
    return {name: tensor / length for name, tensor in vector.items()}
