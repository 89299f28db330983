"""A Krylov run: the Lanczos decomposition of a large symmetric operator.

Lanczos with full reorthogonalisation (Parlett 1998, The Symmetric Eigenvalue Problem, chapter
13) and thick restart (Wu and Simon 2000, SIAM J. Matrix Anal. Appl. 22).  Long vectors stay on
the operator's device and in its dtype; the projected problem is a small float64 matrix on the
host.

Shape suffixes: P numbers of a vector, M vectors of the basis, K Ritz pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lsengine.errors import EnvironmentUnfit
from lsengine.geometry.parameters import sign

Array = NDArray[np.float64]
Positions = NDArray[np.intp]
Choice = Callable[[Array, int], Positions]  # Ritz values, how many: which of them
_LEAST = 8  # vectors that a job may ask for
_COLUMNS = 1 << 20  # of the basis that a restart rotates at a time
_ROUNDING = 32  # units in the last place of a product in float32; 14 at most were measured


class Operator(Protocol):
    """A symmetric linear map of vectors (P,), such as a `Hessian`."""

    size: int  # P, the length of a vector
    dtype: torch.dtype  # of vectors: float32 or float64
    device: torch.device

    def __call__(self, vector_P: Tensor, /) -> Tensor:
        """Return the product, (P,); the argument is left alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LanczosOptions:
    """How hard to look for eigenvalues.

    Attributes:
        tolerance: Largest residual norm over the modulus of its eigenvalue.
        max_products: Products with the operator at most.
        basis: Vectors kept at most; a run that needs more of them restarts.
        seed: Of the random start.
    """

    tolerance: float = 1e-2
    max_products: int = 200
    basis: int = 32
    seed: int = 0


def krylov_bytes(size: int, dtype: torch.dtype, basis: int) -> int:
    """Return the bytes of vectors that a run holds on the device at most.

    ``basis + 8`` vectors (the basis and its residual, two to start from, and what a product
    of a `Hessian` or the results take meanwhile) and what a restart copies at a time.  The
    number of products does not matter.  Activations come on top.

    Example:
        >>> round(krylov_bytes(54_000_000, torch.float32, 32) / 2**30, 2)  # a WRN-56-8
        8.11
    """
    width = torch.empty(0, dtype=dtype).element_size()
    copied = basis // 2 * min(size, _COLUMNS)
    return ((min(basis, size) + 8) * size + copied) * width


@dataclass(frozen=True, slots=True)
class _Cycle:
    """The steps between two restarts: couplings, and Ritz values kept before and had after them."""

    couplings: Array
    kept: Array
    ritz: Array

    def logarithm(self, value: float) -> float:
        """Return that of the part of an eigenvector that the first new vector can have."""
        with np.errstate(divide="ignore"):
            couplings, kept, ritz = (
                float(np.log(np.abs(terms)).sum())
                for terms in (self.couplings, value - self.kept, value - self.ritz)
            )
        return couplings + kept - ritz


class LanczosRun:
    """A Lanczos decomposition ``H V = V T + v b'`` that grows by a product at a time.

    The first vector is not zero.  Of the options ``basis`` and ``max_products`` count here.

    Attributes:
        products: Products with the operator spent.
        failed: Whether a product was not finite.
        exhausted: Whether the vectors span an invariant subspace, so that none can follow.

    Raises:
        ValueError: If ``basis`` is below 4, ``max_products`` below 1 or ``tolerance`` not
            positive.
        EnvironmentUnfit: If there is no memory for the basis.
    """

    def __init__(self, operator: Operator, start_P: Tensor, options: LanczosOptions) -> None:
        if options.basis < 4 or options.max_products < 1 or not options.tolerance > 0:
            raise ValueError(
                "expected basis >= 4, max_products >= 1 and tolerance > 0, got "
                f"{options.basis}, {options.max_products} and {options.tolerance}"
            )
        self._operator, self._limit = operator, options.max_products
        self._room = min(options.basis, operator.size)
        self._basis_MP = self._allocated(start_P)
        self._projected_MM = np.zeros((self._room + 1, self._room + 1))
        self._basis_MP[0] = start_P
        normalize_(self._basis_MP[0])
        self._steps, self.exhausted = 0, False
        self._kept = 0  # Ritz vectors of the last restart, at the front of the basis
        self._before: list[_Cycle] = []  # what the restarts have left behind
        self.products, self.failed = 0, False

    def extend(self) -> bool:
        """Multiply once more; False, without a product, if the run is at its end.

        It is at its end after ``max_products``, when the basis spans an invariant subspace,
        and with a product that is not finite (which sets ``failed``).
        """
        if self.products >= self._limit or self.failed or self.exhausted:
            return False
        last, self._steps = self._steps, self._steps + 1
        basis_MP, next_P = self._basis_MP[: last + 1], self._basis_MP[last + 1]
        next_P.copy_(self._operator(basis_MP[last]))
        self.products += 1
        length = float(torch.linalg.vector_norm(next_P, math.inf))
        if not math.isfinite(length):
            self.failed = True
            return False
        for _ in range(2):  # twice is enough (Parlett 1998, section 6.9)
            overlap_M = basis_MP @ next_P
            next_P.addmv_(basis_MP.T, overlap_M, alpha=-1)
            self._projected_MM[last, last] += float(overlap_M[last])
        beta = normalize_(next_P)
        self._projected_MM[last, last + 1] = self._projected_MM[last + 1, last] = beta
        self.exhausted = beta <= self._rounding() or self._steps == self._operator.size
        return True

    def ritz(self) -> tuple[Array, Array]:
        """Return the Ritz values (K,), ascending, and their residual norms (K,).

        The rounding of the products is estimated and included.
        """
        theta_K, s_MK = self._eigh()
        coupling_K = self._projected_MM[self._steps, : self._steps] @ s_MK
        return theta_K, np.hypot(coupling_K, self._rounding())

    def unseen(self, value: float) -> float:
        """Return how large a part of the start an unseen eigenvector can have at most.

        That is of the unit start vector's component along the eigenvector of an eigenvalue
        ``value``, which is no Ritz value: its component along the vector after the last is at
        most one, and the recurrence leads from there back to the start (van Dorsselaer,
        Hochstenbach and van der Vorst 2000, SIAM J. Matrix Anal. Appl. 22).
        """
        if self.exhausted:
            return 0.0
        logarithm = sum(cycle.logarithm(value) for cycle in [*self._before, self._cycle()])
        return math.exp(min(logarithm, 0.0))

    def quadrature(self) -> tuple[Array, Array]:
        """Return nodes (K,) and weights (K,) of the Gauss quadrature of a run so far.

        That is of the measure which the start vector puts on the eigenvalues; it makes sense
        as long as nothing has restarted.
        """
        theta_K, s_MK = self._eigh()
        return theta_K, s_MK[0] ** 2

    def vectors(self, which_K: Positions) -> Tensor:
        """Return the Ritz vectors (K, P) with these positions in the order of `ritz`.

        Their sign is fixed as by `lsengine.geometry.parameters.sign`.
        """
        _, s_MK = self._eigh()
        s_KM = torch.from_numpy(s_MK[:, which_K].T.copy()).to(self._basis_MP)
        vectors_KP = s_KM @ self._basis_MP[: self._steps]
        for vector_P in vectors_KP:
            normalize_(vector_P)
            if sign(vector_P) < 0:
                vector_P.neg_()
        return vectors_KP

    def make_room(self, choose: Choice) -> None:
        """Restart with chosen Ritz vectors if the basis is full."""
        steps = self._steps
        if steps < self._room or self.exhausted:
            return
        theta_K, s_MK = self._eigh()
        self._before.append(self._cycle())
        keep = choose(theta_K, steps // 2)
        count, coupling_K = len(keep), self._projected_MM[steps, :steps] @ s_MK[:, keep]
        rotation_KM = torch.from_numpy(s_MK[:, keep].T.copy()).to(self._basis_MP)
        for columns_MP in self._basis_MP.split(_COLUMNS, dim=1):
            columns_MP[:count] = rotation_KM @ columns_MP[:steps]
        self._basis_MP[count] = self._basis_MP[steps]
        self._projected_MM[:] = 0
        self._projected_MM[range(count), range(count)] = theta_K[keep]
        self._projected_MM[count, :count] = self._projected_MM[:count, count] = coupling_K
        self._steps = self._kept = count

    def _allocated(self, like_P: Tensor) -> Tensor:
        size, dtype = self._operator.size, like_P.dtype
        try:
            return like_P.new_empty((self._room + 1, size))
        except RuntimeError as error:  # smaller batches would not help
            asked_gib, least_gib = (
                krylov_bytes(size, dtype, b) / 2**30 for b in (self._room, _LEAST)
            )
            raise EnvironmentUnfit(
                f"curvature.basis: {self._room} vectors of {size:,} numbers, and what goes with "
                f"them, take {asked_gib:.3g} GiB; {like_P.device} has no room for that "
                f"({str(error).splitlines()[0]}); a smaller basis takes less, {_LEAST}, the "
                f"least, {least_gib:.3g} GiB"
            ) from error

    def _cycle(self) -> _Cycle:
        """Return what leads from the vector after the last to the one after the kept ones."""
        kept, steps = self._kept, self._steps
        theta_K, _ = self._eigh()
        return _Cycle(
            np.diag(self._projected_MM, 1)[kept:steps].copy(),
            np.diag(self._projected_MM)[:kept].copy(),
            theta_K,
        )

    def _eigh(self) -> tuple[Array, Array]:
        """Return eigenvalues (K,), ascending, and eigenvectors (M, K) of the projection."""
        theta_K, s_MK = np.linalg.eigh(self._projected_MM[: self._steps, : self._steps])
        return theta_K, s_MK

    def _rounding(self) -> float:
        largest = float(np.abs(self._projected_MM).max())
        return _ROUNDING * torch.finfo(self._basis_MP.dtype).eps * largest


def normalize_(vector_P: Tensor) -> float:
    """Give a vector unit length in place and return its length; zero stays zero.

    Through its largest component, so that float32 squares neither overflow nor vanish.
    """
    peak = float(torch.linalg.vector_norm(vector_P, math.inf))
    if peak == 0:
        return 0.0
    vector_P.div_(peak)
    length = float(torch.linalg.vector_norm(vector_P))
    vector_P.div_(length)
    return peak * length
