"""Directions: drawn, normalised to the weights, made orthogonal, or led to a checkpoint.

A direction is a mapping from parameter names to tensors shaped like the parameters.  It holds
only the parameters that it moves.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lsengine.geometry import units
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


def normalized(
    direction: Parameters, weights: Parameters, how: str | units.Units
) -> dict[str, Tensor]:
    """Rescale a direction to the weights.

    ``filter`` gives each filter of the direction the Frobenius norm of the same filter of the
    weights: ``d <- d / ||d|| * ||w||`` (Li et al. 2018, arXiv:1712.09913, section 4), for
    convolutions and fully connected layers alike.  A parameter with one axis is one filter.
    ``layer`` does the same with whole parameters; ``weight`` multiplies each number by the
    modulus of its weight; ``none`` changes nothing.  `Units` say it for each parameter.

    Returns:
        A new direction of the same dtype.  A unit whose norm is zero in ``direction`` stays zero.

    Raises:
        ValueError: If names or shapes differ, ``how`` is none of these, or as for
            `units.balance`.
    """
    require_same(direction, weights, "a direction")
    if how == "none":
        return {k: d.clone() for k, d in direction.items()}
    if how == "weight":
        return {k: d * weights[k].abs().to(d.dtype.to_real()) for k, d in direction.items()}
    if isinstance(how, units.Units):
        blocks = {k: d for k, d in direction.items() if k in how.blocks}
        result = {k: units.rescaled(d, weights[k], how.blocks[k]) for k, d in blocks.items()}
        result = {k: result[k] if k in result else d.clone() for k, d in direction.items()}
        for pair in how.pairs_in(direction):
            units.balance(result, weights, pair)
        return result
    if how not in ("filter", "layer"):
        raise ValueError(f"normalize: got {how!r}; allowed: filter, layer, weight, none")
    return {k: units.rescaled(d, weights[k], units.of_word(d, how)) for k, d in direction.items()}


def orthogonalized(
    direction: Parameters, against: Parameters, how: str | units.Units
) -> dict[str, Tensor]:
    """Return ``direction`` without its component along ``against``.

    Done filter by filter (``filter``), parameter by parameter (``layer``) or unit by unit when the
    direction is then normalised that way, so that normalising keeps it orthogonal; else over
    the whole direction at once.  A unit of a single weight cannot be made orthogonal to
    another and is left as it is.  Parameters that ``against`` does not move are left, too.

    Raises:
        ValueError: If a unit is a product: its angles depend on the factors.
    """
    if isinstance(how, units.Units):
        if pairs := how.pairs_in(direction):
            raise ValueError(
                f"{pairs[0].label}: angles between two factors depend on their gauge; leave "
                "orthogonal out, or give units that are no products"
            )
    elif how not in ("filter", "layer"):
        shared = selected(against, direction)
        square = dot(shared, shared)
        scale = dot(direction, shared) / square if square else 0
        return in_precision_of(minus(direction, shared, scale), direction)
    blocks = {
        k: how.blocks[k] if isinstance(how, units.Units) else units.of_word(d, how)
        for k, d in direction.items()
    }
    return {
        k: units.without(d, against[k], blocks[k]) if k in against else d.clone()
        for k, d in direction.items()
    }


def cosine(first: Parameters, second: Parameters) -> float:
    """Return the cosine of the angle between two directions; 0 if one of them is zero."""
    squares = dot(first, first), dot(second, second)
    return dot(first, second) / (squares[0] * squares[1]) ** 0.5 if all(squares) else 0.0
