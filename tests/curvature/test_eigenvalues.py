"""Both ends of a spectrum and its largest moduli, against dense matrices and networks."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import LinearOperator, eigsh

from lsengine.curvature import (
    LanczosOptions,
    extreme_eigenvalues,
    leading_eigenvectors,
)
from tests.support.hessians import SPECTRA, Case, Matrix, solved, with_spectrum

TIGHT = LanczosOptions(tolerance=1e-4, basis=120, max_products=2000)


def assert_ends(ends, true, tolerance):
    """Check both ends against all true eigenvalues, by the residuals and the contract."""
    largest = np.abs(true).max()
    for value, residual, end in (
        (ends.values[0], ends.residuals[0], true[0]),
        (ends.values[1], ends.residuals[1], true[-1]),
    ):
        allowed = max(tolerance * abs(value), 1e-4 * largest)
        assert residual <= allowed
        assert np.abs(value - true).min() <= residual + 1e-13 * largest
        assert abs(value - end) <= allowed
    assert ends.converged


@pytest.mark.parametrize("tolerance", [1e-1, 1e-2, 1e-3])
def test_both_ends_of_a_network_are_within_the_tolerance(case_solved, tolerance):
    """Of a network with batch norm and a residual one, near a minimum and away from it."""
    _, matrix, true = case_solved
    ends = extreme_eigenvalues(Matrix(matrix), LanczosOptions(tolerance=tolerance))
    assert true[0] < 0 < true[-1]
    assert_ends(ends, true, tolerance)


@pytest.mark.parametrize("kind", ["mlp", "resnet"])
def test_both_ends_by_products_alone(kind):
    """The same from the network itself, whose Hessian nobody has written down."""
    case, _, true = solved(kind, 60)
    assert_ends(extreme_eigenvalues(case.hessian(), LanczosOptions()), true, 1e-2)


def test_residuals_are_the_norms_they_are_said_to_be(case_solved):
    """The residual of the decomposition is that of the vectors, which are of unit norm."""
    _, matrix, _ = case_solved
    ends = extreme_eigenvalues(Matrix(matrix), LanczosOptions(tolerance=0.05))
    for value, residual, v in (
        (ends.values[0], ends.residuals[0], ends.vectors[0]),
        (ends.values[1], ends.residuals[1], ends.vectors[1]),
    ):
        assert float(v.norm()) == pytest.approx(1, rel=1e-12)
        assert float((matrix @ v - value * v).norm()) == pytest.approx(
            residual, rel=1e-6, abs=1e-11
        )
        assert v[v.abs().argmax()] > 0


def test_both_ends_are_those_of_arpack(case_solved):
    """SciPy's both-ends mode finds the same two eigenvalues."""
    _, matrix, _ = case_solved
    operator = LinearOperator(matrix.shape, lambda v: matrix.numpy() @ v, dtype=np.float64)
    low, high = eigsh(operator, k=2, which="BE", return_eigenvectors=False)
    ends = extreme_eigenvalues(Matrix(matrix), TIGHT)
    assert abs(ends.values[0] - low) <= ends.residuals[0]
    assert ends.values[1] == pytest.approx(high, rel=1e-6)


@pytest.mark.parametrize("kind", ["mlp", "resnet"])
def test_float32_agrees_with_float64(kind):
    """Vectors and products in float32 change the ends by less than 1e-4."""
    case, matrix, _ = solved(kind, 60)
    exact = extreme_eigenvalues(Matrix(matrix), LanczosOptions(tolerance=1e-3))
    single = Case(copy.deepcopy(case.model).float(), case.inputs.float(), case.targets)
    ends = extreme_eigenvalues(single.hessian(), LanczosOptions(tolerance=1e-3))
    assert ends.vectors[0].dtype == torch.float32
    assert ends.values[1] == pytest.approx(exact.values[1], rel=1e-4)
    assert ends.values[0] == pytest.approx(exact.values[0], rel=1e-3, abs=1e-4 * exact.values[1])


@pytest.mark.parametrize("kind", SPECTRA)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_known_spectra(kind, dtype):
    """Indefinite, definite, nearly and exactly degenerate spectra, within the residuals."""
    matrix, _ = with_spectrum(SPECTRA[kind], dtype=dtype)
    ends = extreme_eigenvalues(matrix, LanczosOptions(tolerance=1e-2, max_products=500))
    assert ends.products == matrix.products
    assert_ends(ends, np.sort(SPECTRA[kind]), 1e-2)


def test_small_eigenvalue_is_not_asked_below_the_floor():
    """An end at zero converges: its residual may be 1e-4 of the largest modulus."""
    matrix, _ = with_spectrum(np.r_[np.zeros(150), np.linspace(0, 1, 150)])
    ends = extreme_eigenvalues(matrix, LanczosOptions(tolerance=1e-6))
    assert ends.converged
    assert abs(ends.values[0]) <= ends.residuals[0] <= 1e-4


@pytest.mark.parametrize("basis", [4, 8, 20])
def test_restarts_change_memory_not_values(case_solved, basis):
    """A basis of a few vectors takes more products to the same ends."""
    _, matrix, true = case_solved
    roomy = extreme_eigenvalues(Matrix(matrix), LanczosOptions(tolerance=1e-3, basis=200))
    tight = LanczosOptions(tolerance=1e-3, basis=basis, max_products=2000)
    ends = extreme_eigenvalues(Matrix(matrix), tight)
    assert_ends(ends, true, 1e-3)
    assert ends.products >= roomy.products


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_tiny_matrices_are_solved_exactly(size):
    """With fewer dimensions than steps the run ends at the whole space."""
    matrix, _ = with_spectrum(np.linspace(-1, 2, size) if size > 1 else [-3.0])
    ends = extreme_eigenvalues(matrix, LanczosOptions(tolerance=1e-10))
    true = torch.linalg.eigvalsh(matrix.matrix).numpy()
    assert ends.products == size
    assert ends.converged
    assert [ends.values[0], ends.values[1]] == pytest.approx([true[0], true[-1]])


@pytest.mark.parametrize(("scale", "value"), [(0.0, 0.0), (-2.5, -2.5)])
def test_multiples_of_the_identity_take_one_product(scale, value):
    """Every vector is an eigenvector: the subspace is invariant at once."""
    matrix = Matrix(scale * torch.eye(50, dtype=torch.float64))
    ends = extreme_eigenvalues(matrix, LanczosOptions())
    assert ends.products == 1
    assert ends.converged
    assert [ends.values[0], ends.values[1]] == pytest.approx([value, value])
    assert ends.residuals[1] <= 1e-13


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_float32_survives_extreme_scales(scale):
    """Far from the centre curvature is huge; its squares would overflow, or vanish."""
    matrix, _ = with_spectrum(np.linspace(-1, 3, 100) * scale, dtype=torch.float32)
    ends = extreme_eigenvalues(matrix, LanczosOptions(tolerance=1e-2))
    assert ends.converged
    assert ends.values[1] == pytest.approx(3 * scale, rel=1e-2)
    assert ends.values[0] == pytest.approx(-scale, rel=1e-2)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_products_that_are_not_finite_give_nan(bad):
    """A diverged cell has no eigenvalues; that is a result, not an error."""
    matrix, _ = with_spectrum(np.linspace(-1, 1, 60))

    def broken(vector):
        product = matrix(vector)
        return product.fill_(bad) if matrix.products == 4 else product

    broken.size, broken.dtype, broken.device = matrix.size, matrix.dtype, matrix.device
    ends = extreme_eigenvalues(broken, LanczosOptions())
    assert ends.products == 4
    assert not ends.converged
    numbers = (ends.values[0], ends.values[1], ends.residuals[0], ends.residuals[1])
    assert all(map(math.isnan, numbers))
    again = extreme_eigenvalues(matrix, LanczosOptions(), [ends.vectors[0], ends.vectors[1]])
    assert again.values[0] == extreme_eigenvalues(matrix, LanczosOptions()).values[0]


def test_budget_of_products_is_kept():
    """A run that is cut short says so, with the residuals it reached."""
    matrix, _ = with_spectrum(SPECTRA["indefinite"])
    ends = extreme_eigenvalues(matrix, LanczosOptions(tolerance=1e-9, max_products=9))
    assert ends.products == matrix.products == 9
    assert not ends.converged
    assert -3 <= ends.values[0] <= -3 + ends.residuals[0]
    assert 5 - ends.residuals[1] <= ends.values[1] <= 5


def test_seed_decides_the_start(case_solved):
    """One seed, one result to the last bit; another agrees within both residuals."""
    _, matrix, _ = case_solved
    first, again, other = (
        extreme_eigenvalues(Matrix(matrix), LanczosOptions(seed=seed)) for seed in (0, 0, 1)
    )
    assert first.values[0] == again.values[0]
    assert torch.equal(first.vectors[1], again.vectors[1])
    assert not torch.equal(first.vectors[1], other.vectors[1])
    difference = abs(first.values[0] - other.values[0])
    assert difference <= first.residuals[0] + other.residuals[0]


def test_neighbours_vectors_save_products():
    """From the ends of a matrix nearby, fewer products give the same ends."""
    near, _ = with_spectrum(SPECTRA["network"])
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(near.matrix.shape, generator=generator, dtype=torch.float64)
    here = Matrix(near.matrix + 2e-5 * (noise + noise.T))
    known = extreme_eigenvalues(near, LanczosOptions())
    cold = extreme_eigenvalues(here, LanczosOptions())
    warm = extreme_eigenvalues(here, LanczosOptions(), [known.vectors[0], known.vectors[1]])
    assert warm.products < cold.products
    assert_ends(warm, torch.linalg.eigvalsh(here.matrix).numpy(), 1e-2)


def test_start_that_misses_the_ends_still_finds_them():
    """Exact eigenvectors of inner eigenvalues do not hide the outer ones."""
    values = np.r_[-5, -1, np.linspace(-0.1, 0.1, 300), 1, 6]
    matrix, basis = with_spectrum(values)
    ends = extreme_eigenvalues(matrix, LanczosOptions(), [basis[:, 1], basis[:, -2]])
    assert_ends(ends, np.sort(values), 1e-2)


def test_options_that_make_no_sense_are_refused():
    """A basis too small to restart, no products, no tolerance."""
    matrix, _ = with_spectrum([1.0, 2.0])
    for options in (
        LanczosOptions(basis=3),
        LanczosOptions(max_products=0),
        LanczosOptions(tolerance=0),
    ):
        with pytest.raises(ValueError, match="expected basis >= 4"):
            extreme_eigenvalues(matrix, options)


def test_leading_pairs_are_those_of_largest_modulus(case_solved):
    """Of either sign, orthonormal, and eigenvectors as good as their residuals."""
    _, matrix, true = case_solved
    pairs = leading_eigenvectors(
        Matrix(matrix), 4, LanczosOptions(tolerance=1e-3, max_products=500)
    )
    expected = true[np.argsort(-np.abs(true))][:4]
    assert pairs.converged
    assert np.all(np.abs(pairs.values - expected) <= pairs.residuals + 1e-13)
    torch.testing.assert_close(
        pairs.vectors @ pairs.vectors.T, torch.eye(4, dtype=torch.float64), atol=1e-10, rtol=0
    )
    moved = matrix @ pairs.vectors.T - pairs.vectors.T * torch.from_numpy(pairs.values)
    np.testing.assert_allclose(moved.norm(dim=0).numpy(), pairs.residuals, rtol=1e-5, atol=1e-11)


def test_leading_pairs_survive_restarts():
    """A small basis finds the same leading pairs."""
    matrix, _ = with_spectrum(np.r_[-9, -8, np.linspace(-4, 4, 300), 7])
    pairs = leading_eigenvectors(
        matrix, 3, LanczosOptions(tolerance=1e-4, basis=10, max_products=900)
    )
    np.testing.assert_allclose(pairs.values, [-9, -8, 7], atol=1e-4)


def test_multiple_eigenvalue_is_seen_once():
    """A single run has no second vector of an eigenspace: fewer pairs, and it says so."""
    pairs = leading_eigenvectors(Matrix(torch.eye(20, dtype=torch.float64)), 2, LanczosOptions())
    np.testing.assert_allclose(pairs.values, [1.0])
    assert not pairs.converged


def test_number_of_leading_pairs_is_checked():
    """A basis of ten has room for four pairs besides what finds them."""
    matrix, _ = with_spectrum(np.arange(30.0))
    for count in (0, 5):
        with pytest.raises(ValueError, match=f"expected 1 to 4 with basis 10, got {count}"):
            leading_eigenvectors(matrix, count, LanczosOptions(basis=10))


@pytest.mark.parametrize("seed", range(4))
def test_a_neighbour_is_not_taken_for_the_end(seed):
    """Where eigenvalues have crossed, a given vector is that of an inner one: no residual."""
    values_P = torch.cat([torch.tensor([-0.62, -0.6, 1.0, 1.03]), torch.linspace(-0.5, 0.8, 996)])
    values_P = values_P.double()
    unit_PP = torch.eye(1000, dtype=torch.float64)
    operator = Matrix(torch.diag(values_P))
    ends = extreme_eigenvalues(operator, LanczosOptions(seed=seed), [unit_PP[1], unit_PP[2]])
    assert ends.converged
    np.testing.assert_allclose(ends.values, [-0.62, 1.03], rtol=1e-2)
