"""Projections of checkpoints onto a plane, and the axes that cover them.

Each checkpoint is read once.

Shape suffixes: T checkpoints, P numbers of a checkpoint, K directions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lsengine.geometry.parameters import CheckpointVectors, Floats, Parameters, chunks


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """Checkpoints as seen from a plane (or line) through a centre.

    Attributes:
        coordinates: (T, K), of the nearest point of the plane, in units of the directions.
        distance: (T,), to that point.
        length: (T,), distance to the centre.
        cosine: (T, K), of the angle between ``theta_t - centre`` and each direction; 0 for
            the centre itself.  Compare its modulus with `expected_cosine`.
    """

    coordinates: Floats
    distance: Floats
    length: Floats
    cosine: Floats


def project(
    vectors: CheckpointVectors, centre: Parameters, directions: Sequence[Parameters]
) -> Projection:
    """Project checkpoints onto the plane through ``centre`` along ``directions``.

    Least squares: the K x K normal equations are solved in float64 and refined once with the
    residual, whose norm, not a difference of squares, is the distance.  Each checkpoint is
    read once; in memory are one of them, the centre and the directions.

    Args:
        vectors: Their names count for the distance, too.
        centre: The point with coordinates zero; further parameters may be there.
        directions: K of them, of any length and at any angle; a parameter that is absent
            does not move.

    Raises:
        ValueError: If directions are zero or linearly dependent, if one moves a parameter
            that is not among the names; or as for `CheckpointVectors`.
    """
    centre_P = vectors.flat(centre, "the centre")
    rows_KP = torch.stack([vectors.sparse(d, f"direction {k}") for k, d in enumerate(directions)])
    metric_KK = _metric(rows_KP)
    results = [_projected(vectors(t), centre_P, rows_KP, metric_KK) for t in range(vectors.count)]
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


def axis_range(coordinates: Floats, margin: float = 0.15) -> tuple[float, float]:
    """Return (start, stop) of an axis that covers a trajectory (T,) and its centre.

    ``margin`` is added at both ends, as a fraction of the extent.  The axis goes from -1 to 1 if
    neither a checkpoint nor the centre lies apart.

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


def _metric(rows_KP: Tensor) -> Floats:
    """Return the inner products (K, K) of directions that span as many dimensions."""
    metric = torch.zeros(len(rows_KP), len(rows_KP), dtype=torch.float64)
    for chunk in chunks(rows_KP.shape[1]):
        rows = rows_KP[:, chunk].double()
        metric.addmm_(rows, rows.T)
    metric_KK: Floats = metric.numpy()
    lengths_K = np.sqrt(np.diag(metric_KK))
    if not lengths_K.all():
        raise ValueError(f"direction {int(lengths_K.argmin())} is zero in the parameters compared")
    cosines_KK = metric_KK / lengths_K[:, None] / lengths_K[None, :]
    # float32 directions that differ by rounding alone give about 1e-14 here.
    if np.linalg.eigvalsh(cosines_KK)[0] < 1e-12:
        raise ValueError("the directions are linearly dependent: they span no plane")
    return metric_KK


def _projected(
    theta_P: Tensor, centre_P: Tensor, rows_KP: Tensor, metric_KK: Floats
) -> tuple[Floats, float, float, Floats]:
    """Return coordinates (K,), distance, length and cosines (K,) of one checkpoint."""
    along_K, left_K = torch.zeros(2, len(rows_KP), dtype=torch.float64)
    square = square_off_plane = 0.0
    for chunk in chunks(len(theta_P)):
        delta = theta_P[chunk].double() - centre_P[chunk].double()
        along_K += rows_KP[:, chunk].double() @ delta
        square += float(delta @ delta)
    coordinates_K: Floats = np.linalg.solve(metric_KK, along_K.numpy())
    steps_K = torch.from_numpy(coordinates_K)
    for chunk in chunks(len(theta_P)):
        rows = rows_KP[:, chunk].double()
        residual = theta_P[chunk].double() - centre_P[chunk].double() - steps_K @ rows
        left_K += rows @ residual
        square_off_plane += float(residual @ residual)
    coordinates_K = coordinates_K + np.linalg.solve(metric_KK, left_K.numpy())
    length = math.sqrt(square)
    scale_K = length * np.sqrt(np.diag(metric_KK))
    cosine_K = along_K.numpy() / scale_K if length else np.zeros(len(rows_KP))
    return coordinates_K, math.sqrt(square_off_plane), length, cosine_K
