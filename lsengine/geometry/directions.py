"""Directions: drawn, normalised to the weights, made orthogonal, or led to a checkpoint.

A direction is a mapping from parameter names to tensors shaped like the parameters.  It holds
only the parameters that it moves.

Shape suffixes: F filters, K weights of a filter.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lsengine.geometry.parameters import (
    Parameters,
    as_real,
    dot,
    in_precision_of,
    like_kind,
    minus,
    require_same,
    selected,
)


def draw(weights: Parameters, *, seed: int, axis: int, repeat: int = 0) -> dict[str, Tensor]:
    """Draw a standard Gaussian direction in float32, on the CPU, the same one on any machine.

    NumPy's generator is used because its normal deviates do not depend on the processor's
    vector instructions, as torch's do.  NumPy does not promise them across its own versions, so
    a surface file records the version, and a test holds the values.

    Of ``weights`` only names and shapes matter, and which are complex: real and imaginary parts
    are then drawn alike.  ``axis`` is 0 for alpha and 1 for beta, so that
    equal seeds still span a plane; ``repeat`` is the index of an independent repeat.
    """
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, axis, repeat])))
    return {
        name: like_kind(
            torch.from_numpy(generator.standard_normal((*as_real(w).shape,), dtype=np.float32)), w
        )
        for name, w in weights.items()
    }


def toward(centre: Parameters, other: Parameters) -> dict[str, Tensor]:
    """Return the difference ``other - centre``, so that ``other`` lies at coordinate 1.

    The difference is taken in float64 and kept in float32, or in float64 if the centre is.

    Raises:
        ValueError: If names or shapes differ.
    """
    require_same(other, centre, "the other end of a direction")
    return in_precision_of(minus(selected(other, centre), centre), centre)


def normalized(direction: Parameters, weights: Parameters, how: str) -> dict[str, Tensor]:
    """Rescale a direction to the weights.

    ``filter`` gives each filter of the direction the Frobenius norm of the same filter of the
    weights: ``d <- d / ||d|| * ||w||`` (Li et al. 2018, arXiv:1712.09913, section 4), for
    convolutions and fully connected layers alike.  A parameter with one axis is one filter.
    ``layer`` does the same with whole parameters; ``weight`` multiplies each number by the
    modulus of its weight; ``none`` changes nothing.

    Returns:
        A new direction of the same dtype.  A filter whose norm is zero in ``direction`` stays zero.

    Raises:
        ValueError: If names or shapes differ, or ``how`` is none of the four.
    """
    require_same(direction, weights, "a direction")
    if how == "none":
        return {k: d.clone() for k, d in direction.items()}
    if how == "weight":
        return {k: d * weights[k].abs().to(d.dtype.to_real()) for k, d in direction.items()}
    if how not in ("filter", "layer"):
        raise ValueError(f"normalize: got {how!r}; allowed: filter, layer, weight, none")
    return {k: _rescaled(d, weights[k], how) for k, d in direction.items()}


def orthogonalized(direction: Parameters, against: Parameters, how: str) -> dict[str, Tensor]:
    """Return ``direction`` without its component along ``against``.

    Done filter by filter (``filter``) or parameter by parameter (``layer``) when the
    direction is then normalised that way, so that normalising keeps it orthogonal; else over
    the whole direction at once.  A filter of a single weight cannot be made orthogonal to
    another and is left as it is.  Parameters that ``against`` does not move are left, too.
    """
    if how not in ("filter", "layer"):
        shared = selected(against, direction)
        square = dot(shared, shared)
        scale = dot(direction, shared) / square if square else 0
        return in_precision_of(minus(direction, shared, scale), direction)
    return {
        k: _orthogonal_rows(d, against[k], how) if k in against else d.clone()
        for k, d in direction.items()
    }


def cosine(first: Parameters, second: Parameters) -> float:
    """Return the cosine of the angle between two directions; 0 if one of them is zero."""
    squares = dot(first, first), dot(second, second)
    return dot(first, second) / (squares[0] * squares[1]) ** 0.5 if all(squares) else 0.0


def _rows(tensor: Tensor, how: str) -> Tensor:
    """View a parameter as (F, K) real numbers in float64: one row per unit of normalisation."""
    is_one = how == "layer" or tensor.ndim < 2
    real = as_real(tensor)
    return (real.reshape(1, -1) if is_one else real.flatten(1)).double()


def _shaped(rows_FK: Tensor, like: Tensor) -> Tensor:
    """Return numbers that `_rows` gave in the shape, kind and precision of a tensor."""
    return like_kind(rows_FK, like).to(like.dtype)


def _rescaled(d: Tensor, w: Tensor, how: str) -> Tensor:
    d_FK, w_FK = _rows(d, how), _rows(w, how)
    norm_F = d_FK.norm(dim=1)
    scale_F = torch.where(norm_F > 0, w_FK.norm(dim=1) / norm_F, 0.0)
    return _shaped(scale_F[:, None] * d_FK, d)


def _orthogonal_rows(d: Tensor, a: Tensor, how: str) -> Tensor:
    d_FK, a_FK = _rows(d, how), _rows(a, how)
    if d_FK.shape[1] < 2:
        return d.clone()
    length_F = a_FK.square().sum(1)
    scale_F = torch.where(length_F > 0, (d_FK * a_FK).sum(1) / length_F, 0.0)
    return _shaped(d_FK - scale_F[:, None] * a_FK, d)
