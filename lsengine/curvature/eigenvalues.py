"""Eigenvalues at the ends of a spectrum, with residuals that say how good they are.

Shape suffixes: P numbers of a vector, K eigenpairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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
# An eigenvalue beyond those found may be missed with this chance, if there is one: the start has
# so little of its vector by chance.  With vectors given, that it is none of them is rare already.
_MISSED, _MISSED_WARM = 0.03, 1.0
# Of small operators a product costs next to nothing.
_SMALL, _FEWEST_OF_SMALL = 128, 24
_NOISE = 1.0  # weight of the random vector beside the given ones in a start


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
    of the larger modulus.  A small residual says that an eigenvalue is near, not that it is the
    end.  So the run goes on until an eigenvalue as far outside would show, unless a random start
    has next to nothing of its vector (`LanczosRun.unseen`).  An invariant subspace ends the run
    with the eigenvalues in it.

    The result depends on the arguments alone.  With another ``start`` it differs within the
    residuals.

    ``start`` has vectors (P,) near the wanted ones, such as both of a neighbouring cell; those
    that are zero or not finite are left out.

    Raises:
        ValueError: If an option makes no sense, see `LanczosRun`.
    """
    return _solve(operator, options, start, _BOTH_ENDS, 2)


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
    return _solve(operator, options, start, _LARGEST, count)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Which Ritz values are wanted, and where an eigenvalue would lie that takes their place."""

    choose: Choice
    places: Callable[[Array, Array], Array]  # of values, and how far off they may be


def _solve(
    operator: Operator,
    options: LanczosOptions,
    start: Sequence[Tensor],
    wanted: _Wanted,
    count: int,
) -> Eigenpairs:
    """Extend a run until the ``count`` wanted Ritz pairs are good enough, or it ends."""
    start_P, share = _start(operator, start, options.seed)
    run, choose = LanczosRun(operator, start_P, options), wanted.choose
    fewest = min(_FEWEST_OF_SMALL, options.max_products) if operator.size <= _SMALL else 1
    # A component of a random unit vector is normal, with variance 1 / P.
    chance = _MISSED if share == 1 else _MISSED_WARM
    least = share * chance * math.sqrt(math.pi / 2 / operator.size)

    def is_done() -> bool:
        values_K, residuals_K = run.ritz()
        which_K = choose(values_K, count)
        values_K, residuals_K = values_K[which_K], residuals_K[which_K]
        allowed_K = _allowed(values_K, options.tolerance)
        enough = run.exhausted or run.products >= fewest
        if not enough or len(values_K) < count or not bool(np.all(residuals_K <= allowed_K)):
            return False
        return all(run.unseen(p) <= least for p in wanted.places(values_K, allowed_K).tolist())

    converged = False
    while run.extend():
        if converged := is_done():
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
    return Eigenpairs(
        values=values_K,
        residuals=residuals_K,
        vectors=vectors_KP,
        products=run.products,
        converged=converged,
    )


def _both_ends(values_K: Array, count: int) -> Positions:
    """Return half of the positions from either end; a single value is both its ends."""
    low, high = count // 2, len(values_K) - (count - count // 2)
    return np.array([*range(low), *range(high, len(values_K))], dtype=np.intp)


def _largest(values_K: Array, count: int) -> Positions:
    order_K: Positions = np.argsort(-np.abs(values_K), kind="stable")[:count]
    return order_K


def _outside(values_K: Array, allowed_K: Array) -> Array:
    return np.array([values_K[0] - allowed_K[0], values_K[-1] + allowed_K[-1]])


def _among_larger(values_K: Array, allowed_K: Array) -> Array:
    """Return places between values and outside of them, but for those of a smaller modulus."""
    least = float((np.abs(values_K) + allowed_K)[np.argmin(np.abs(values_K))])
    places: Array = np.array([least, -least, *(values_K + allowed_K), *(values_K - allowed_K)])
    apart = np.abs(places[:, None] - values_K) >= (1 - 1e-9) * allowed_K
    kept: Array = places[(np.abs(places) >= least) & apart.all(1)]
    return kept


_BOTH_ENDS, _LARGEST = _Wanted(_both_ends, _outside), _Wanted(_largest, _among_larger)


def _allowed(values_K: Array, tolerance: float) -> Array:
    """Return the largest residuals that are small enough."""
    moduli_K = np.abs(values_K)
    allowed_K: Array = np.maximum(tolerance * moduli_K, _FLOOR * moduli_K.max(initial=0.0))
    return allowed_K


def _start(operator: Operator, given: Sequence[Tensor], seed: int) -> tuple[Tensor, float]:
    """Return a random vector (P,), or the sum of given ones and a weaker random one.

    Also returns about which share of its length is random.  Drawn on the CPU by NumPy,
    so that it is the same for every device and processor.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    noise_P = torch.from_numpy(generator.standard_normal(operator.size, dtype=np.float32))
    start_P = noise_P.to(operator.device, operator.dtype)
    normalize_(start_P)
    added = 0
    for vector_P in given:
        if not 0 < float(vector_P.abs().max()) < math.inf:
            continue
        unit_P = vector_P.to(start_P, copy=True)
        normalize_(unit_P)
        start_P.add_(unit_P, alpha=1 / _NOISE)
        added += 1
    return start_P, _NOISE / math.sqrt(_NOISE**2 + added) if added else 1.0
