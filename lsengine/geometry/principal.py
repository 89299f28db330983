"""Principal directions of a training run's checkpoints.

A run of T checkpoints with P numbers each is a (T, P) matrix that rarely fits in memory.  Its
principal components follow from the T x T matrix of inner products, which is gathered from a
few checkpoints at a time.  Checkpoints are read again rather than kept.

Arithmetic is in float64 whatever the checkpoints' dtype.  The last bits depend on ``block``
and on the number of threads, so both must be fixed where bytes are to be the same.

Shape suffixes: T checkpoints, P numbers of a checkpoint that count, M that move, K directions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lsengine.geometry.parameters import CheckpointVectors, Floats, chunks, sign
from lsengine.wording import listed

BLOCK = 32
_GROUP = 8  # checkpoints that go by the held ones at once, so that held ones convert less often


@dataclass(frozen=True, slots=True, kw_only=True)
class Gram:
    """Inner products of a run's checkpoints, seen from the final one.

    Attributes:
        matrix: (T, T), ``<theta_s - theta_final, theta_t - theta_final>``; symmetric, its
            last row and column are zero.
        norms: (T,), the Euclidean norm of each checkpoint, of the parameters asked for.
        size: P, how many numbers those are.
        resolution: Machine epsilon of the checkpoints' dtype.
    """

    matrix: Floats
    norms: Floats
    size: int
    resolution: float


@dataclass(frozen=True, slots=True)
class PrincipalComponents:
    """Principal components of a run; figures of all T components, directions of the first."""

    # By name, float32; unit vectors at right angles, as far as their numbers count.
    directions: tuple[dict[str, Tensor], ...]
    explained_variance_ratio: Floats  # (T,), descending, as fractions of the total variance


def gram(vectors: CheckpointVectors, *, block: int = BLOCK) -> Gram:
    """Return the inner products of all checkpoints, as differences to the final one.

    ``block`` checkpoints are held while the later ones go by, eight at a time; of each only
    the numbers asked for are kept, in their own dtype.  So at most ``block + 9`` checkpoints
    are in memory (the final one stays), besides the one that is being read and scratch
    of 0.1 MiB each; torch's code and holes in the C library's heap take up to 64 MiB more.
    A checkpoint is read ``T / (2 * block) + 1/2`` times on average, and once if
    ``block >= T - 1``.

    Raises:
        ValueError: As for `CheckpointVectors`, or if ``block`` is less than 1.
    """
    if block < 1:
        raise ValueError(f"block is at least 1; got {block}")
    count = vectors.count
    final_P = vectors(count - 1)
    matrix_TT, norms_T = np.zeros((count, count)), np.zeros(count)
    norms_T[-1] = _norm(final_P)
    for start in range(0, count - 1, block):
        stop = min(start + block, count - 1)
        held = [vectors(t) for t in range(start, stop)]
        norms_T[start:stop] = [_norm(theta_P) for theta_P in held]
        matrix_TT[start:stop, start:stop] = _products(held, held, final_P)
        for first in range(stop, count - 1, _GROUP):
            last = min(first + _GROUP, count - 1)
            passing = [vectors(t) for t in range(first, last)]
            matrix_TT[start:stop, first:last] = _products(held, passing, final_P)
            del passing  # not kept while the next ones are read
        del held
    upper_TT = np.triu(matrix_TT)
    return Gram(
        matrix=upper_TT + np.triu(matrix_TT, 1).T,
        norms=norms_T,
        size=final_P.numel(),
        resolution=torch.finfo(final_P.dtype).eps,
    )


def principal_components(
    vectors: CheckpointVectors,
    *,
    moving: CheckpointVectors | None = None,
    components: int = 2,
    block: int = BLOCK,
) -> PrincipalComponents:
    """Return the principal components of a run of checkpoints.

    The rows are ``theta_t - theta_final`` for all checkpoints, the final one included, and
    columns are centred: scikit-learn's PCA, for the purpose of Li et al. (2018),
    arXiv:1712.09913, section 7.2.  From the eigenvectors ``u_k`` of the centred Gram matrix
    the directions are ``sum_t u_tk theta_t``, made unit vectors.  As in scikit-learn since
    1.5, a direction has the sign that makes its number of largest modulus positive.

    ``moving`` reads the same checkpoints, with numbers behind those of ``vectors`` that move and do
    not count: they get the same combination of checkpoints.  That is also the regression of these
    numbers on the scores, since scores are centred and uncorrelated.  The directions have them.

    Memory is the larger of `gram`'s and that of the second reading: one checkpoint and
    ``components`` vectors in float64.  Each checkpoint is read once more than by `gram`.

    Raises:
        ValueError: If the checkpoints, at least ``components + 1``, differ in fewer dimensions
            than ``components``, beyond the rounding of their weights; or as for `gram`.
    """
    count = vectors.count
    if components < 1 or count <= components:
        raise ValueError(
            f"{components} principal directions need at least {max(1, components) + 1} "
            f"checkpoints; got {count}"
        )
    products = gram(vectors, block=block)
    mean_T = products.matrix.mean(axis=0)  # taken off each row
    centred_TT = products.matrix - mean_T[:, None] - mean_T[None, :] + mean_T.mean()
    # torch's, so that its setting of threads counts here, too.
    ascending = torch.linalg.eigh(torch.from_numpy(centred_TT))
    eigenvectors_TT = ascending.eigenvectors.numpy()
    values_T = np.maximum(ascending.eigenvalues.numpy()[::-1], 0.0)
    _refuse_degenerate(products, values_T, components, vectors.label)
    moving = moving or vectors
    rows_KM = _combined(moving, eigenvectors_TT[:, ::-1][:, :components])
    rows_KP = rows_KM[:, : products.size]
    # They are orthonormal already, but for what the rounding of the Gram matrix leaves when
    # variances differ by many orders; twice is enough for the modified Gram-Schmidt process.
    for k, (row_M, row_P) in enumerate(zip(rows_KM, rows_KP, strict=True)):
        for j in (*range(k), *range(k)):
            row_M.sub_(rows_KM[j], alpha=float(row_P @ rows_KP[j]))
        row_M.div_(row_P.norm())
        row_M.mul_(sign(row_P))
    return PrincipalComponents(
        directions=tuple(moving.named(row_M) for row_M in rows_KM),
        explained_variance_ratio=values_T / values_T.sum(),
    )


def _norm(vector_P: Tensor) -> float:
    return math.sqrt(sum(float(vector_P[c].double().square().sum()) for c in chunks(len(vector_P))))


def _products(left: list[Tensor], right: list[Tensor], final_P: Tensor) -> Floats:
    """Return the inner products of differences to ``final_P``: (left, right)."""
    total = torch.zeros(len(left), len(right), dtype=torch.float64)
    for chunk in chunks(len(final_P)):
        sides = (left,) if left is right else (left, right)
        base = final_P[chunk].double()
        wide = [torch.stack([v[chunk] for v in side]).double().sub_(base) for side in sides]
        total.addmm_(wide[0], wide[-1].T)
    return total.numpy()


def _refuse_degenerate(
    products: Gram, values_T: Floats, components: int, label: Callable[[int], str]
) -> None:
    """Refuse components that are nothing but rounding.

    Weights rounded to a relative ``resolution`` are off by a vector with about that variance
    over 12; of T such vectors the largest squared singular value is, by the law of
    Marchenko and Pastur, at most (1 + sqrt(T / P))^2 times their squared length.
    """
    count = len(values_T)
    rounding = (products.resolution * products.norms.max()) ** 2 / 12
    spread = (1 + math.sqrt(count / products.size)) ** 2
    floor = max(rounding * spread, count * np.finfo(np.float64).eps * values_T[0])
    if (rank := int((values_T > floor).sum())) >= components:
        return
    squares_T = np.diag(products.matrix)
    apart_TT = squares_T[:, None] + squares_T[None, :] - 2 * products.matrix
    pairs = np.argwhere(np.triu(apart_TT <= floor, 1))
    same = listed(f"{label(i)} = {label(j)}" for i, j in pairs)
    raise ValueError(
        f"the {count} checkpoints differ in {rank} dimension(s) beyond the rounding of their "
        f"weights, and {components} principal directions are asked for"
        + (f"; these are the same: {same}" if len(pairs) else "")
    )


def _combined(vectors: CheckpointVectors, weights_TK: Floats) -> Tensor:
    """Return the (K, P) float64 combinations of checkpoints with these weights.

    The weights of a component add up to zero, so differences to any point give the same.
    """
    rows_KP = torch.zeros(0)
    for t, weight_K in enumerate(torch.from_numpy(weights_TK.copy())):
        theta_P = vectors(t)
        if t == 0:
            rows_KP = torch.zeros(len(weight_K), len(theta_P), dtype=torch.float64)
        for chunk in chunks(len(theta_P)):
            rows_KP[:, chunk].addr_(weight_K, theta_P[chunk].double())
    return rows_KP
