"""The Lanczos decomposition itself: its basis, its memory and its options."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lsengine.curvature import (
    LanczosOptions,
    LanczosRun,
    krylov_bytes,
)
from lsengine.errors import EnvironmentUnfit
from tests.support.hessians import SPECTRA, random_vector, with_spectrum


def test_basis_stays_orthonormal_through_restarts():
    """The decomposition ``H V = V T + v b'`` holds after many restarts."""
    matrix, _ = with_spectrum(SPECTRA["positive"])
    run = LanczosRun(matrix, random_vector(300), LanczosOptions(basis=10, max_products=60))
    while run.extend():
        run.make_room(lambda values, count: np.arange(len(values) - count, len(values)))
    values, residuals = run.ritz()
    vectors = run.vectors(np.arange(len(values)))
    gram = vectors @ vectors.T
    torch.testing.assert_close(gram, torch.eye(len(values), dtype=torch.float64))
    true = matrix.matrix @ vectors.T - vectors.T * torch.from_numpy(values)
    np.testing.assert_allclose(true.norm(dim=0).numpy(), residuals, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("basis", [12, 60])
def test_what_is_unseen_is_a_bound(basis):
    """On the start's component along the true end, near what is left of it, through restarts."""
    matrix, _ = with_spectrum(SPECTRA["positive"])
    values, vectors = torch.linalg.eigh(matrix.matrix)
    largest, end = float(values[-1]), vectors[:, -1]
    start = random_vector(300)
    start -= (1 - 1e-3) * (end @ start) * end  # so that the end is found late
    component = abs(float(end @ start)) / float(start.norm())
    run = LanczosRun(matrix, start, LanczosOptions(basis=basis, max_products=60))
    bounds = []
    while run.extend():
        if run.ritz()[0].max() < largest * (1 - 1e-9):
            bounds.append(run.unseen(largest))
        run.make_room(lambda values, count: np.arange(len(values) - count, len(values)))
    assert all(bound >= component * (1 - 1e-6) for bound in bounds)
    assert min(bounds) < 1e-3 < 0.1 < max(bounds)


def test_memory_is_that_of_the_basis():
    """What is planned for depends on the basis, not on the products; the run allocates it."""
    size = 100_000
    diagonal = torch.linspace(-1, 1, size, dtype=torch.float64)

    def product(vector):
        return diagonal * vector

    product.size, product.dtype, product.device = size, torch.float64, diagonal.device
    run = LanczosRun(product, torch.ones(size, dtype=torch.float64), LanczosOptions(basis=8))
    held = sum(t.nbytes for t in vars(run).values() if isinstance(t, torch.Tensor))
    assert held == 9 * size * 8
    assert held < krylov_bytes(size, torch.float64, 8) < 2.3 * held


def test_a_basis_without_room_is_named():
    """Smaller batches would not help, so the run ends with the bytes and the way out."""

    def product(vector):
        return vector

    product.size, product.dtype, product.device = 2**44, torch.float32, torch.device("cpu")
    with pytest.raises(EnvironmentUnfit, match=r"curvature\.basis: 32 vectors of 17,592,186"):
        LanczosRun(product, torch.ones(1), LanczosOptions())
