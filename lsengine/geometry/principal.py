"""Principal directions of a training run's checkpoints, and projections onto a plane.

A run of T checkpoints with P numbers each is a (T, P) matrix that rarely fits in memory.  Its
principal components follow from the T x T matrix of inner products, which is gathered from a
few checkpoints at a time.  Checkpoints come from a callable, ``load(index)``, and are read
again rather than kept; everything here runs on the CPU and knows no file and no rank.

Arithmetic is in float64 whatever the checkpoints' dtype.  The last bits depend on ``block``
and on the number of threads, so both must be fixed where bytes are to be the same.

Shape suffixes: T checkpoints, P numbers of a checkpoint, K directions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Parameters = Mapping[str, Tensor]
Load = Callable[[int], Parameters]
Array = NDArray[np.float64]
BLOCK = 32
_GROUP = 8  # checkpoints that go by the held ones at once, so that held ones convert less often
_CHUNK = 2**13  # numbers taken to float64 at once: a block of them stays in the cache
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Gram:
    """Inner products of a run's checkpoints, seen from the final one.

    Attributes:
        matrix: (T, T), ``<theta_s - theta_final, theta_t - theta_final>``; symmetric, its
            last row and column are zero.
        norms: (T,), the Euclidean norm of each checkpoint, of the parameters asked for.
        size: P, how many numbers those are.
        resolution: Machine epsilon of the checkpoints' dtype.
    """

    matrix: Array
    norms: Array
    size: int
    resolution: float


@dataclass(frozen=True, slots=True)
class PrincipalComponents:
    """Principal components of a run; figures of all T components, directions of the first.

    Attributes:
        directions: Unit vectors, orthogonal to each other, float32, by parameter name.
        explained_variance: (T,), descending, with T - 1 degrees of freedom.
        explained_variance_ratio: (T,), the same as fractions of the total.
        singular_values: (T,), of the centred (T, P) matrix.
        norms: (T,), the Euclidean norm of each checkpoint.
    """

    directions: tuple[dict[str, Tensor], ...]
    explained_variance: Array
    explained_variance_ratio: Array
    singular_values: Array
    norms: Array


@dataclass(frozen=True, slots=True)
class Projection:
    """Checkpoints as seen from a plane (or line) through a centre.

    Attributes:
        coordinates: (T, K), of the nearest point of the plane, in units of the directions.
        distance: (T,), to that point.
        length: (T,), distance to the centre.
        cosine: (T, K), of the angle between ``theta_t - centre`` and each direction; 0 for
            the centre itself.  Compare its modulus with `expected_cosine`.
    """

    coordinates: Array
    distance: Array
    length: Array
    cosine: Array


def gram(load: Load, count: int, names: Sequence[str], *, block: int = BLOCK) -> Gram:
    """Return the inner products of all checkpoints, as differences to the final one.

    ``block`` checkpoints are held while the later ones go by, eight at a time; of each only
    the numbers asked for are kept, in their own dtype.  So at most ``block + 9`` checkpoints
    are in memory (the final one stays), besides the one that ``load`` is reading and scratch
    of 0.1 MiB each; torch's code and holes in the C library's heap take up to 64 MiB more.
    A checkpoint is read ``count / (2 * block) + 1/2`` times on average, and once if
    ``block >= count - 1``.

    Args:
        load: Index to parameters, 0 the first and ``count - 1`` the final checkpoint; more
            than ``names`` may be there.  Called more than once for most.
        count: T.
        names: The parameters that count.
        block: How many checkpoints to hold.

    Raises:
        ValueError: If a checkpoint lacks a parameter, has one of another shape or one that
            is not finite; it is named by its index.  Or if ``names`` is empty.
    """
    if count < 1 or block < 1:
        raise ValueError(f"count and block are at least 1; got {count} and {block}")
    reader = _Reader(load, names)
    final_P = reader(count - 1)
    matrix_TT, norms_T = np.zeros((count, count)), np.zeros(count)
    norms_T[-1] = _norm(final_P)
    for start in range(0, count - 1, block):
        stop = min(start + block, count - 1)
        held = [reader(t) for t in range(start, stop)]
        norms_T[start:stop] = [_norm(theta_P) for theta_P in held]
        matrix_TT[start:stop, start:stop] = _products(held, held, final_P)
        for first in range(stop, count - 1, _GROUP):
            last = min(first + _GROUP, count - 1)
            passing = [reader(t) for t in range(first, last)]
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


def principal_directions(
    load: Load,
    count: int,
    names: Sequence[str],
    *,
    components: int = 2,
    block: int = BLOCK,
) -> PrincipalComponents:
    """Return the principal components of a run of checkpoints.

    The rows are ``theta_t - theta_final`` for all checkpoints, the final one included, and
    columns are centred: scikit-learn's PCA, for the purpose of Li et al. (2018),
    arXiv:1712.09913, section 7.2.  From the eigenvectors ``u_k`` of the centred Gram matrix
    the directions are ``sum_t u_tk theta_t``, made unit vectors.  As in scikit-learn since
    1.5, a direction has the sign that makes its number of largest modulus positive.

    Memory is the larger of `gram`'s and that of the second reading: one checkpoint and
    ``components`` vectors in float64.  Each checkpoint is read once more than by `gram`.

    Args:
        load: As for `gram`.
        count: T, at least ``components + 1``.
        names: The parameters that count; others do not move.
        components: How many directions to return.
        block: As for `gram`.

    Raises:
        ValueError: If the checkpoints differ in fewer dimensions than ``components``, beyond
            the rounding of their weights; or as for `gram`.
    """
    if components < 1 or count <= components:
        raise ValueError(
            f"{components} principal directions need at least {max(1, components) + 1} "
            f"checkpoints; got {count}"
        )
    products = gram(load, count, names, block=block)
    # torch's, so that its setting of threads counts here, too.
    found = torch.linalg.eigh(torch.from_numpy(_centred(products.matrix)))
    vectors_TT = found.eigenvectors.numpy()
    values_T = np.maximum(found.eigenvalues.numpy()[::-1], 0.0)
    _refuse_degenerate(products, values_T, components)
    reader = _Reader(load, names)
    rows_KP = _combined(reader, vectors_TT[:, ::-1][:, :components])
    _orthonormalize(rows_KP)
    return PrincipalComponents(
        directions=tuple(reader.named(_sign(row_P) * row_P) for row_P in rows_KP),
        explained_variance=values_T / (count - 1),
        explained_variance_ratio=values_T / values_T.sum(),
        singular_values=np.sqrt(values_T),
        norms=products.norms,
    )


def project(
    load: Load,
    count: int,
    names: Sequence[str],
    centre: Parameters,
    directions: Sequence[Parameters],
) -> Projection:
    """Project checkpoints onto the plane through ``centre`` along ``directions``.

    Least squares: the K x K normal equations are solved in float64 and refined once with the
    residual, whose norm, not a difference of squares, is the distance.  Each checkpoint is
    read once; in memory are one of them, the centre and the directions.

    Args:
        load: As for `gram`.
        count: T.
        names: The parameters that count, also for the distance.
        centre: The point with coordinates zero; more than ``names`` may be there.
        directions: K of them, of any length and at any angle; a parameter that is absent
            does not move.

    Raises:
        ValueError: If directions are zero or linearly dependent, if one moves a parameter
            that is not in ``names``; or as for `gram`.
    """
    reader = _Reader(load, names)
    centre_P = reader.flat(centre, "the centre")
    rows_KP = torch.stack([reader.sparse(d, f"direction {k}") for k, d in enumerate(directions)])
    metric_KK = _metric(rows_KP)
    results = [_projected(reader(t), centre_P, rows_KP, metric_KK) for t in range(count)]
    coordinates, distances, lengths, cosines = zip(*results, strict=True)
    return Projection(
        coordinates=np.stack(coordinates),
        distance=np.array(distances),
        length=np.array(lengths),
        cosine=np.stack(cosines),
    )


def expected_cosine(size: int) -> float:
    """Return ``sqrt(2 / (pi n))``, the mean modulus of the cosine of random directions.

    Of two Gaussian vectors of ``size`` numbers, for many of them (Li et al. 2018,
    arXiv:1712.09913, section 7.1, after Blum et al. 2016): why a trajectory hardly moves in
    a random plane.

    Raises:
        ValueError: If ``size`` is less than 1.
    """
    if size < 1:
        raise ValueError(f"the number of dimensions is at least 1; got {size}")
    return math.sqrt(2 / (math.pi * size))


def axis_range(coordinates: Array, margin: float = 0.15) -> tuple[float, float]:
    """Return (start, stop) of an axis that covers a trajectory and its centre.

    Args:
        coordinates: (T,), along one direction.
        margin: Added at both ends, as a fraction of the extent.

    Returns:
        The range; from -1 to 1 if neither a checkpoint nor the centre lies apart.

    Raises:
        ValueError: If a coordinate is not finite, or ``margin`` is negative.
    """
    if not np.isfinite(coordinates).all() or not margin >= 0:
        raise ValueError("an axis needs finite coordinates and a margin of at least 0")
    start, stop = min(0.0, *coordinates.tolist()), max(0.0, *coordinates.tolist())
    if start == stop:
        return -1.0, 1.0
    room = margin * (stop - start)
    return start - room, stop + room


class _Reader:
    """Reads checkpoints as vectors (P,) of the same parameters in the same order."""

    def __init__(self, load: Load, names: Sequence[str]) -> None:
        if not names:
            raise ValueError("no parameter is left to compare checkpoints by")
        self._load, self._names = load, tuple(names)
        self._shapes: dict[str, torch.Size] = {}

    def __call__(self, index: int) -> Tensor:
        """Read one checkpoint."""
        return self.flat(self._load(index), f"checkpoint {index}")

    def flat(self, parameters: Parameters, what: str) -> Tensor:
        """Copy the parameters into one vector, in their own dtype, on the CPU."""
        if missing := [n for n in self._names if n not in parameters]:
            more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
            raise ValueError(f"{what} lacks {', '.join(missing[:_SHOWN])}{more}")
        if not self._shapes:
            self._shapes = {n: parameters[n].shape for n in self._names}
        for name, shape in self._shapes.items():
            if parameters[name].shape != shape:
                found = f"{[*parameters[name].shape]}, elsewhere {[*shape]}"
                raise ValueError(f"{what}: {name} has shape {found}")
        flat_P = torch.cat([parameters[n].detach().cpu().reshape(-1) for n in self._names])
        if not flat_P.is_floating_point():
            flat_P = flat_P.double()
        if not bool(flat_P.sum().isfinite()):  # quick to tell; may also be an overflow
            for name in self._names:
                if not bool(parameters[name].isfinite().all()):
                    raise ValueError(f"{what}: {name} holds numbers that are not finite")
        return flat_P

    def sparse(self, direction: Parameters, what: str) -> Tensor:
        """Return a direction as a vector, zero where it does not move."""
        if odd := sorted(direction.keys() - set(self._names)):
            raise ValueError(f"{what} moves {odd[0]}, which is not among the parameters compared")
        some = next(iter(direction.values()), torch.zeros(0))
        still = {n: some.new_zeros(s) for n, s in self._shapes.items() if n not in direction}
        return self.flat({**direction, **still}, what)

    def named(self, vector_P: Tensor) -> dict[str, Tensor]:
        """Cut a vector into float32 parameters."""
        pieces = vector_P.float().split([s.numel() for s in self._shapes.values()])
        items = zip(self._shapes.items(), pieces, strict=True)
        return {name: piece.reshape(shape) for (name, shape), piece in items}


def _chunks(size: int) -> Iterator[slice]:
    for start in range(0, size, _CHUNK):
        yield slice(start, start + _CHUNK)


def _norm(vector_P: Tensor) -> float:
    return math.sqrt(
        sum(float(vector_P[c].double().square().sum()) for c in _chunks(len(vector_P)))
    )


def _products(left: list[Tensor], right: list[Tensor], final_P: Tensor) -> Array:
    """Return the inner products of differences to ``final_P``: (left, right)."""
    total = torch.zeros(len(left), len(right), dtype=torch.float64)
    for chunk in _chunks(len(final_P)):
        base = final_P[chunk].double()
        rows = torch.stack([v[chunk] for v in left]).double().sub_(base)
        if left is right:
            columns = rows
        else:
            columns = torch.stack([v[chunk] for v in right]).double().sub_(base)
        total.addmm_(rows, columns.T)
    return total.numpy()


def _centred(matrix_TT: Array) -> Array:
    """Return the Gram matrix of the same rows with their mean taken off each."""
    mean_T = matrix_TT.mean(axis=0)
    centred_TT: Array = matrix_TT - mean_T[:, None] - mean_T[None, :] + mean_T.mean()
    return centred_TT


def _refuse_degenerate(products: Gram, values_T: Array, components: int) -> None:
    """Refuse components that are nothing but rounding.

    Weights rounded to a relative ``resolution`` are off by a vector with about that variance
    over 12; of T such vectors the largest squared singular value is, by the law of
    Marchenko and Pastur, at most (1 + sqrt(T / P))^2 times their squared length.
    """
    count = len(values_T)
    rounding = (products.resolution * products.norms.max()) ** 2 / 12
    spread = (1 + math.sqrt(count / products.size)) ** 2
    floor = max(rounding * spread, count * np.finfo(np.float64).eps * values_T[0])
    rank = int((values_T > floor).sum())
    if rank >= components:
        return
    squares_T = np.diag(products.matrix)
    apart_TT = squares_T[:, None] + squares_T[None, :] - 2 * products.matrix
    pairs = np.argwhere(np.triu(apart_TT <= floor, 1))
    same = ", ".join(f"{i} = {j}" for i, j in pairs[:_SHOWN]) + (", ..." * (len(pairs) > _SHOWN))
    raise ValueError(
        f"the {count} checkpoints differ in {rank} dimension(s) beyond the rounding of their "
        f"weights, and {components} principal directions are asked for"
        + (f"; these are the same (counted from 0): {same}" if len(pairs) else "")
    )


def _combined(reader: _Reader, weights_TK: Array) -> Tensor:
    """Return the (K, P) float64 combinations of checkpoints with these weights.

    The weights of a component add up to zero, so differences to any point give the same.
    """
    weights = torch.from_numpy(weights_TK.copy())
    rows_KP = torch.zeros(0)
    for t, weight_K in enumerate(weights):
        theta_P = reader(t)
        if t == 0:
            rows_KP = torch.zeros(len(weight_K), len(theta_P), dtype=torch.float64)
        for chunk in _chunks(len(theta_P)):
            rows_KP[:, chunk].addr_(weight_K, theta_P[chunk].double())
    return rows_KP


def _orthonormalize(rows_KP: Tensor) -> None:
    """Make rows orthonormal in place, earlier ones first.

    They are already, but for what the rounding of the Gram matrix leaves when variances
    differ by many orders; twice is enough for the modified Gram-Schmidt process.
    """
    for k, row_P in enumerate(rows_KP):
        for earlier_P in [*rows_KP[:k], *rows_KP[:k]]:
            row_P.sub_(earlier_P, alpha=float(row_P @ earlier_P))
        row_P.div_(row_P.norm())


def _sign(row_P: Tensor) -> float:
    """Return the sign of the number of largest modulus, the first of several."""
    low, high = int(row_P.argmin()), int(row_P.argmax())
    excess = float(row_P[high] + row_P[low])
    return 1.0 if excess > 0 or (excess == 0 and high < low) else -1.0


def _metric(rows_KP: Tensor) -> Array:
    """Return the inner products (K, K) of directions that span as many dimensions."""
    metric = torch.zeros(len(rows_KP), len(rows_KP), dtype=torch.float64)
    for chunk in _chunks(rows_KP.shape[1]):
        rows = rows_KP[:, chunk].double()
        metric.addmm_(rows, rows.T)
    metric_KK: Array = metric.numpy()
    lengths_K = np.sqrt(np.diag(metric_KK))
    if not lengths_K.all():
        raise ValueError(f"direction {int(lengths_K.argmin())} is zero")
    cosines_KK = metric_KK / lengths_K[:, None] / lengths_K[None, :]
    # float32 directions that differ by rounding alone give about 1e-14 here.
    if np.linalg.eigvalsh(cosines_KK)[0] < 1e-12:
        raise ValueError("the directions are linearly dependent: they span no plane")
    return metric_KK


def _projected(
    theta_P: Tensor, centre_P: Tensor, rows_KP: Tensor, metric_KK: Array
) -> tuple[Array, float, float, Array]:
    """Return coordinates (K,), distance, length and cosines (K,) of one checkpoint."""
    along_K, left_K = torch.zeros(2, len(rows_KP), dtype=torch.float64)
    square = rest = 0.0
    for chunk in _chunks(len(theta_P)):
        delta = theta_P[chunk].double() - centre_P[chunk].double()
        along_K += rows_KP[:, chunk].double() @ delta
        square += float(delta @ delta)
    coordinates_K: Array = np.linalg.solve(metric_KK, along_K.numpy())
    steps_K = torch.from_numpy(coordinates_K)
    for chunk in _chunks(len(theta_P)):
        rows = rows_KP[:, chunk].double()
        residual = theta_P[chunk].double() - centre_P[chunk].double() - steps_K @ rows
        left_K += rows @ residual
        rest += float(residual @ residual)
    coordinates_K = coordinates_K + np.linalg.solve(metric_KK, left_K.numpy())
    length = math.sqrt(square)
    scale_K = length * np.sqrt(np.diag(metric_KK))
    cosine_K = along_K.numpy() / scale_K if length else np.zeros(len(rows_KP))
    return coordinates_K, math.sqrt(rest), length, cosine_K
