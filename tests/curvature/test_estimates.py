"""Trace and spectral density from random probes, against dense matrices."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lsengine.curvature import spectral_density, trace
from tests.support.hessians import Matrix, network, with_spectrum


def test_trace_is_within_its_own_error(case_solved):
    """The estimate lies within four standard errors of the dense trace."""
    _, matrix, _ = case_solved
    estimate = trace(Matrix(matrix), probes=40, seed=3)
    assert estimate.products == 40
    assert estimate.standard_error > 0
    assert abs(estimate.value - float(matrix.trace())) <= 4 * estimate.standard_error


def test_standard_error_is_hutchinsons():
    """With many probes it is the one that the off-diagonal elements give."""
    matrix = network("small", 3).dense()
    estimate = trace(Matrix(matrix), probes=4000)
    off = matrix - matrix.diag().diag()
    expected = math.sqrt(2 * float(off.square().sum()) / 4000)
    assert estimate.standard_error == pytest.approx(expected, rel=0.1)


def test_trace_of_a_diagonal_is_exact():
    """Rademacher probes have no variance on the diagonal; one probe has no error bar."""
    matrix = Matrix(torch.diag(torch.arange(50.0, dtype=torch.float64)))
    assert trace(matrix, probes=3).value == pytest.approx(1225)
    assert trace(matrix, probes=3).standard_error == pytest.approx(0)
    assert math.isnan(trace(matrix, probes=1).standard_error)
    with pytest.raises(ValueError, match="at least 1"):
        trace(matrix, probes=0)


def test_density_integrates_to_one_with_the_moments_of_the_spectrum(case_solved):
    """Mass one; mean and mean square within the scatter of the probes."""
    _, matrix, true = case_solved
    density = spectral_density(Matrix(matrix), probes=20, steps=20, seed=1)
    assert density.products <= 400
    assert density.weights.sum() == pytest.approx(1, rel=1e-12)
    assert np.trapezoid(density.density, density.grid) == pytest.approx(1, rel=1e-6)
    smooth_mean = np.trapezoid(density.density * density.grid, density.grid)
    assert smooth_mean == pytest.approx(density.weights @ density.nodes, rel=1e-6, abs=1e-9)
    for power in (1, 2):
        raised = torch.linalg.matrix_power(matrix, power)
        off = raised - raised.diag().diag()
        error = math.sqrt(2 * float(off.square().sum()) / 20) / len(true)
        moment = density.weights @ density.nodes**power
        assert abs(moment - (true**power).mean()) <= 4 * error
    assert density.nodes.min() >= true[0] - 1e-9
    assert density.nodes.max() <= true[-1] + 1e-9


def test_density_shows_the_shares_of_clusters():
    """Three clusters of known shares appear as three peaks of those areas."""
    values = np.r_[np.full(60, -1.0), np.full(300, 0.0), np.full(40, 4.0)]
    density = spectral_density(with_spectrum(values)[0], probes=60, steps=10)
    for centre, share in ((-1, 0.15), (0, 0.75), (4, 0.1)):
        near = np.abs(density.grid - centre) < 0.4
        area = np.trapezoid(density.density[near], density.grid[near])
        assert area == pytest.approx(share, abs=0.02)


def test_density_of_one_eigenvalue_is_a_narrow_peak():
    """A spectrum without extent still gets a width, zero included."""
    for value in (3.0, 0.0):
        density = spectral_density(Matrix(value * torch.eye(9, dtype=torch.float64)), probes=2)
        assert density.products == 2
        assert density.width > 0
        assert np.trapezoid(density.density, density.grid) == pytest.approx(1, rel=1e-6)
        assert density.grid[density.density.argmax()] == pytest.approx(value, abs=density.width)


def test_estimates_are_seeded():
    """One seed, one result; probes that are not finite give NaN."""
    hessian = network("small", 3).hessian()
    assert trace(hessian, probes=2) == trace(hessian, probes=2)
    assert trace(hessian, probes=2) != trace(hessian, probes=2, seed=1)
    first, again = (spectral_density(hessian, probes=2, steps=8) for _ in range(2))
    np.testing.assert_array_equal(first.density, again.density)
    broken = Matrix(torch.full((5, 5), math.nan, dtype=torch.float64))
    assert math.isnan(trace(broken, probes=2).value)
    assert np.isnan(spectral_density(broken, probes=2).density).all()
    with pytest.raises(ValueError, match="probes >= 1"):
        spectral_density(hessian, probes=0)
