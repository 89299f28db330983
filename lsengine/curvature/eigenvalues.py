"""Eigenvalues at the ends of a spectrum, with residuals that say how good they are.

Shape suffixes: P numbers of a vector, K eigenpairs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lsengine.curvature.lanczos import (
    Array,
    Choice,
    LanczosOptions,
    LanczosRun,
    Operator,
    Positions,
    normalize_,
)

_FLOOR = 1e-4  # no residual is asked below this share of the largest modulus
_FEWEST = 6  # products before a residual is believed: an unlucky start looks converged
# Of small operators a product costs next to nothing, and few numbers make it likely that a start
# nearly misses the end of the spectrum and its neighbour is taken for it.
_SMALL, _FEWEST_OF_SMALL = 128, 24
_NOISE = 0.3  # weight of the random vector beside the given ones in a start


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Eigenpairs:
    """Eigenvalues with their vectors.

    Attributes:
        values: Ritz values (K,); NaN, as their vectors, if a product was not finite.
        residuals: Norms of ``H v - value v``, (K,): an eigenvalue lies at most this far away.
        vectors: Orthonormal Ritz vectors (K, P), on the operator's device.
        products: Products with the operator spent.
        converged: Whether all pairs asked for are there with small enough residuals.
    """

    values: Array
    residuals: Array
    vectors: Tensor
    products: int
    converged: bool


def extreme_eigenvalues(
    operator: Operator, options: LanczosOptions, start: Sequence[Tensor] = ()
) -> Eigenpairs:
    """Return both ends of the spectrum, the smallest first, from one Krylov run.

    The run starts from a random vector, or from the sum of given vectors and a weaker random
    one, so that an eigenvector they all miss still shows.  Residual norms are those of the
    decomposition, ``|beta s|`` (Parlett 1998, section 13.2), and cost no product.  Each must
    be at most ``tolerance`` times the modulus of its own eigenvalue, but never less than 1e-4
    of the larger modulus.  An invariant subspace ends the run with the eigenvalues in it.

    The result depends on the arguments alone.  With another ``start`` it differs within the
    residuals.

    ``start`` has vectors (P,) near the wanted ones, such as both of a neighbouring cell; those
    that are zero or not finite are left out.

    Raises:
        ValueError: If an option makes no sense, see `LanczosRun`.
    """
    return _solve(operator, options, start, _both_ends, 2)


def leading_eigenvectors(
    operator: Operator, count: int, options: LanczosOptions, start: Sequence[Tensor] = ()
) -> Eigenpairs:
    """Return the ``count`` eigenpairs of largest modulus, of either sign, by falling modulus.

    All else is as for `extreme_eigenvalues`.  A single Krylov run sees an eigenvalue once
    whatever its multiplicity, so fewer pairs may come back.  ``count`` is at most half of the
    basis, less one.

    Raises:
        ValueError: If the basis has no room for ``count`` pairs, or an option makes no sense.
    """
    most = min(options.basis // 2 - 1, operator.size)
    if not 1 <= count <= most:
        raise ValueError(f"count: expected 1 to {most} with basis {options.basis}, got {count}")
    return _solve(operator, options, start, _largest, count)


def _solve(
    operator: Operator,
    options: LanczosOptions,
    start: Sequence[Tensor],
    choose: Choice,
    count: int,
) -> Eigenpairs:
    """Extend a run until the ``count`` chosen Ritz pairs are good enough, or it ends."""
    run = LanczosRun(operator, _start(operator, start, options.seed), options)
    fewest = _FEWEST_OF_SMALL if operator.size <= _SMALL else _FEWEST
    while run.extend():
        values_K, residuals_K = run.ritz()
        which_K = choose(values_K, count)
        enough = run.products >= min(fewest, options.max_products) and len(which_K) == count
        if enough and _met(values_K[which_K], residuals_K[which_K], options.tolerance):
            break
        run.make_room(choose)
    if run.failed:
        values_K = residuals_K = np.full(count, math.nan)
        shape = (count, operator.size)
        vectors_KP = torch.full(shape, math.nan, dtype=operator.dtype, device=operator.device)
    else:
        values_K, residuals_K = run.ritz()
        which_K = choose(values_K, count)
        values_K, residuals_K = values_K[which_K], residuals_K[which_K]
        vectors_KP = run.vectors(which_K)
    enough = not run.failed and len(values_K) == count
    return Eigenpairs(
        values=values_K,
        residuals=residuals_K,
        vectors=vectors_KP,
        products=run.products,
        converged=enough and _met(values_K, residuals_K, options.tolerance),
    )


def _both_ends(values_K: Array, count: int) -> Positions:
    """Return half of the positions from either end; a single value is both its ends."""
    low, high = count // 2, len(values_K) - (count - count // 2)
    return np.array([*range(low), *range(high, len(values_K))], dtype=np.intp)


def _largest(values_K: Array, count: int) -> Positions:
    order_K: Positions = np.argsort(-np.abs(values_K), kind="stable")[:count]
    return order_K


def _met(values_K: Array, residuals_K: Array, tolerance: float) -> bool:
    moduli_K = np.abs(values_K)
    allowed_K = np.maximum(tolerance * moduli_K, _FLOOR * moduli_K.max())
    return bool(np.all(residuals_K <= allowed_K))


def _start(operator: Operator, given: Sequence[Tensor], seed: int) -> Tensor:
    """Return a random vector (P,), or the sum of given ones and a weaker random one.

    Drawn on the CPU by NumPy, so that it is the same for every device and processor.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    noise_P = torch.from_numpy(generator.standard_normal(operator.size, dtype=np.float32))
    start_P = noise_P.to(operator.device, operator.dtype)
    normalize_(start_P)
    for vector_P in given:
        if not 0 < float(vector_P.abs().max()) < math.inf:
            continue
        unit_P = vector_P.to(start_P, copy=True)
        normalize_(unit_P)
        start_P.add_(unit_P, alpha=1 / _NOISE)
    return start_P
