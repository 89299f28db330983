"""Curvature: products, eigenvalues, trace and density against dense Hessians."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from lsengine.curvature import (
    Hessian,
    Krylov,
    Lanczos,
    extreme_eigenvalues,
    krylov_bytes,
    leading_eigenvectors,
    spectral_density,
    trace,
)
from lsengine.models import resnet

TIGHT = Lanczos(tolerance=1e-4, basis=120, max_products=2000)


def cross_entropy(output, target):
    """Return one loss per sample, as the objective's loss does."""
    return F.cross_entropy(output, target, reduction="none")


@dataclass
class Matrix:
    """A dense symmetric matrix as an operator that counts its products."""

    matrix: torch.Tensor
    products: int = 0
    size: int = field(init=False)

    def __post_init__(self):
        self.size, self.dtype, self.device = len(self.matrix), self.matrix.dtype, self.matrix.device

    def __call__(self, vector):
        """Return the product."""
        self.products += 1
        return self.matrix @ vector


def with_spectrum(eigenvalues, *, seed=0, dtype=torch.float64):
    """Return a matrix with these eigenvalues in a random basis, and that basis."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.as_tensor(eigenvalues, dtype=torch.float64)
    square = torch.randn(len(values), len(values), generator=generator, dtype=torch.float64)
    basis, _ = torch.linalg.qr(square)
    return Matrix(((basis * values) @ basis.T).to(dtype)), basis


@dataclass
class Case:
    """A network in evaluation mode with data, its operator and its dense Hessian."""

    model: nn.Module
    inputs: torch.Tensor
    targets: torch.Tensor
    loss: Callable = cross_entropy

    def batches(self, *sizes):
        """Cut the data into batches of these sizes."""
        return list(zip(self.inputs.split(sizes), self.targets.split(sizes), strict=True))

    def hessian(self, **options):
        """Return the operator over batches of unequal sizes."""
        rest = len(self.inputs) - 10
        return Hessian(self.model, self.batches(7, 3, rest), self.loss, **options)

    def dense(self, names=None):
        """Return the Hessian of the mean loss by differentiating a flat function twice."""
        every = {k: p.detach() for k, p in self.model.named_parameters()}
        chosen = list(every if names is None else names)
        shapes = [every[k].shape for k in chosen]

        def mean_loss(flat):
            pieces = flat.split([s.numel() for s in shapes])
            moved = {k: p.view(s) for k, p, s in zip(chosen, pieces, shapes, strict=True)}
            output = functional_call(self.model, {**every, **moved}, (self.inputs,))
            return self.loss(output, self.targets).mean()

        return torch.func.hessian(mean_loss)(torch.cat([every[k].flatten() for k in chosen]))


def _trained(model, inputs, targets, steps):
    """Take gradient steps in training mode, so that running statistics are the data's."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    with torch.no_grad():
        for _ in range(30):  # let running statistics catch up with the last weights
            model(inputs)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module", params=["mlp", "resnet"])
def network(request):
    """Return a maker of untrained networks and data they fit, in float64."""

    def make(steps):
        generator = torch.Generator().manual_seed(0)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            if request.param == "mlp":
                layers = [nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)]
                model, shape = nn.Sequential(*layers), (40, 6)
            else:
                model = resnet.cifar(8, channels=1, classes=3, width=1)
                shape = (20, 1, 8, 8)
            inputs = torch.randn(shape, generator=generator, dtype=torch.float64)
            targets = torch.randint(0, 3, shape[:1], generator=generator)
            return Case(_trained(model.double(), inputs, targets, steps), inputs, targets)

    return make


@pytest.fixture(scope="module", params=[2, 60], ids=["away", "minimum"])
def solved(request, network):
    """A network away from and near a minimum, with the eigenvalues of its dense Hessian."""
    case = network(request.param)
    matrix = case.dense()
    return case, matrix, torch.linalg.eigvalsh(matrix).numpy()


@pytest.fixture(scope="module")
def mlp():
    """A small smooth network in float64 with batch norm, away from a minimum."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))
        inputs = torch.randn(30, 5, dtype=torch.float64)
        targets = torch.randint(0, 3, (30,))
        return Case(_trained(model.double(), inputs, targets, 3), inputs, targets)


def random_vector(size, seed=0, dtype=torch.float64):
    """Return a Gaussian vector."""
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# Products


def test_product_is_that_of_the_dense_hessian_of_the_mean(solved):
    """Batches of 7, 3 and the rest give the mean over samples, not over batches."""
    case, matrix, _ = solved
    hessian = case.hessian()
    v = random_vector(hessian.size)
    assert hessian.forward_mode
    torch.testing.assert_close(hessian(v), matrix @ v, rtol=1e-9, atol=1e-10)


def test_product_does_not_depend_on_the_cut_into_batches(mlp):
    """One batch, many, and batches of a single sample are the same mean."""
    v = random_vector(mlp.hessian().size)
    expected = mlp.hessian()(v)
    for sizes in ([30], [29, 1], [1] * 30):
        product = Hessian(mlp.model, mlp.batches(*sizes), mlp.loss)(v)
        torch.testing.assert_close(product, expected, rtol=1e-10, atol=1e-12)


def test_two_backward_passes_give_the_same_product(solved):
    """The fallback agrees with reverse over forward, parameters without effect included."""
    case, matrix, _ = solved
    hessian = case.hessian()
    hessian.forward_mode = False
    v = random_vector(hessian.size)
    torch.testing.assert_close(hessian(v), matrix @ v, rtol=1e-9, atol=1e-10)


class _Cube(torch.autograd.Function):
    """A function written for plain autograd: no forward mode, no `setup_context`."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * grad


class _CubeLayer(nn.Module):
    def forward(self, x):
        return _Cube.apply(x)


def test_operation_without_forward_mode_is_found_out(mlp):
    """A network that forward mode refuses gets the product of its twin that it takes."""

    class Power(nn.Module):
        def forward(self, x):
            return x**3

    layers = list(mlp.model)
    plain = Case(nn.Sequential(*layers, _CubeLayer()).eval(), mlp.inputs, mlp.targets)
    twin = Case(nn.Sequential(*layers, Power()).eval(), mlp.inputs, mlp.targets)
    v = random_vector(plain.hessian().size)
    assert not plain.hessian().forward_mode
    assert twin.hessian().forward_mode
    torch.testing.assert_close(plain.hessian()(v), twin.hessian()(v), rtol=1e-9, atol=1e-11)


def test_attention_has_second_derivatives():
    """A transformer layer in evaluation mode, fused kernels and all, can be multiplied."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(4, 2, dim_feedforward=5, batch_first=True)
        model = nn.Sequential(layer, nn.Flatten(), nn.Linear(12, 3)).double().eval()
        inputs, targets = torch.randn(13, 3, 4).double(), torch.randint(0, 3, (13,))
    hessian = Hessian(model, [(inputs[:9], targets[:9]), (inputs[9:], targets[9:])], cross_entropy)
    v, step = random_vector(hessian.size), 1e-5
    slopes = []
    for sign in (1, -1):
        moved = {k: p + sign * step * d for (k, p), d in zip(
            model.named_parameters(), hessian.unflatten(v).values(), strict=True
        )}  # fmt: skip
        leaves = {k: p.detach().requires_grad_() for k, p in moved.items()}
        loss = F.cross_entropy(functional_call(model, leaves, (inputs,)), targets)
        slopes.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, leaves.values())]))
    torch.testing.assert_close(
        hessian(v), (slopes[0] - slopes[1]) / (2 * step), rtol=1e-5, atol=1e-7
    )


def test_only_named_parameters_are_differentiated(mlp):
    """The operator of some parameters is the block of the whole Hessian that they span."""
    names = ["3.weight", "0.weight"]
    hessian = mlp.hessian(names=names)
    assert hessian.names == ["0.weight", "3.weight"]
    assert hessian.size == 30 + 18
    v = random_vector(hessian.size)
    torch.testing.assert_close(hessian(v), mlp.dense(hessian.names) @ v, rtol=1e-9, atol=1e-11)


def test_weights_are_read_anew_and_left_alone(mlp):
    """Parameters that are views of a buffer can be displaced between two products."""
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double().eval()
    shapes = [p.shape for p in model.parameters()]
    buffer = random_vector(sum(s.numel() for s in shapes), seed=4)
    for p, piece in zip(model.parameters(), buffer.split([s.numel() for s in shapes]), strict=True):
        p.requires_grad_(False).data = piece.view(p.shape)
    case = Case(model, mlp.inputs, mlp.targets)
    hessian = case.hessian()
    v = random_vector(hessian.size)
    for _ in range(2):
        buffer.mul_(1.5)
        before = buffer.clone()
        torch.testing.assert_close(hessian(v), case.dense() @ v, rtol=1e-9, atol=1e-11)
        assert torch.equal(buffer, before)


def test_strides_of_a_parameter_do_not_matter():
    """A vector is row-major even if the filters lie in channels-last order."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3))
        model = model.double().eval()
        inputs, targets = torch.randn(14, 2, 4, 4).double(), torch.randint(0, 3, (14,))
    v = random_vector(Case(model, inputs, targets).hessian().size)
    expected = Case(model, inputs, targets).hessian()(v)
    model = model.to(memory_format=torch.channels_last)
    inputs = inputs.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(Case(model, inputs, targets).hessian()(v), expected)


@pytest.mark.parametrize("reduce", [lambda x: x, lambda x: x.mean(1), lambda x: x.mean()])
def test_loss_may_keep_its_outputs_its_samples_or_only_the_mean(mlp, reduce):
    """Losses of shape (N, K), (N,) and () of the same mean have the same Hessian."""
    targets = F.one_hot(mlp.targets, 3).double()
    case = Case(mlp.model, mlp.inputs, targets, lambda o, t: reduce((o - t).square()))
    v = random_vector(case.hessian().size)
    torch.testing.assert_close(case.hessian()(v), case.dense() @ v, rtol=1e-9, atol=1e-11)


def test_loss_linear_in_the_parameters_has_no_curvature():
    """Both ways give zero where nothing depends on the parameters a second time."""
    model = nn.Linear(4, 2).double().eval()
    case = Case(model, random_vector(48).view(12, 4), torch.zeros(12, 2), lambda o, t: o)
    hessian = case.hessian()
    for hessian.forward_mode in (True, False):
        assert hessian(random_vector(hessian.size)).abs().max() == 0


def test_tick_comes_before_each_mini_batch_and_may_abandon(mlp):
    """An exception of the callback passes through, and the operator still works after."""
    calls, limit = [], 5

    def tick():
        calls.append(1)
        if len(calls) == limit:
            raise KeyboardInterrupt

    hessian = mlp.hessian(tick=tick)
    calls.clear()  # the trial at construction may tick too
    v = random_vector(hessian.size)
    expected = hessian(v)
    assert len(calls) == 3
    with pytest.raises(KeyboardInterrupt):
        hessian(v)
    assert torch.equal(hessian(v), expected)


def test_products_work_in_inference_mode(mlp):
    """The loop over cells runs without gradients; products do not mind."""
    hessian = mlp.hessian()
    v = random_vector(hessian.size)
    expected = hessian(v)
    with torch.inference_mode():
        assert torch.equal(hessian(v.clone()), expected)
        assert extreme_eigenvalues(hessian, Lanczos()).converged


def test_vectors_and_directions_are_converted_both_ways(mlp):
    """A vector's pieces are shaped like the parameters; what a direction lacks is zero."""
    hessian = mlp.hessian()
    v = random_vector(hessian.size)
    pieces = hessian.unflatten(v)
    assert {k: t.shape for k, t in pieces.items()} == {
        k: p.shape for k, p in mlp.model.named_parameters()
    }
    assert torch.equal(hessian.flatten(pieces), v)
    del pieces["0.weight"]
    assert hessian.flatten(pieces).count_nonzero() == hessian.size - 30


def test_misuse_is_refused(mlp):
    """Unknown names, no names, no data, training mode, mixed dtypes and wrong lengths."""
    with pytest.raises(ValueError, match=r"no parameter 0\.weigth"):
        mlp.hessian(names=["0.weigth"])
    with pytest.raises(ValueError, match="parameters of one dtype"):
        mlp.hessian(names=[])
    with pytest.raises(ValueError, match="got 0 samples"):
        Hessian(mlp.model, [], mlp.loss)
    with pytest.raises(ValueError, match="training mode"):
        Hessian(nn.Linear(5, 3).double(), mlp.batches(30), mlp.loss)
    mixed = nn.Sequential(nn.Linear(5, 3).double(), nn.Linear(3, 3)).eval()
    with pytest.raises(ValueError, match="parameters of one dtype"):
        Hessian(mixed, mlp.batches(30), mlp.loss)
    with pytest.raises(ValueError, match="expected shape"):
        mlp.hessian()(torch.zeros(3, dtype=torch.float64))


def test_products_are_those_of_curvlinops(network):
    """An independent public implementation gives the same products and the same ends."""
    curvlinops = pytest.importorskip("curvlinops")
    case = network(2)
    model = case.model.requires_grad_(True)
    try:
        theirs = curvlinops.HessianLinearOperator(
            model,
            nn.CrossEntropyLoss(),
            [p for p in model.parameters()],
            case.batches(7, 3, len(case.inputs) - 10),
            check_deterministic=False,
        )
        hessian = case.hessian()
        v = random_vector(hessian.size)
        torch.testing.assert_close(hessian(v), theirs @ v, rtol=1e-9, atol=1e-11)
        low, high = eigsh(theirs.to_scipy(), k=2, which="BE", tol=1e-3, return_eigenvectors=False)
    finally:
        model.requires_grad_(False)
    ends = extreme_eigenvalues(hessian, TIGHT)
    assert abs(ends.eigenvalue_min - low) <= ends.residual_min
    assert ends.eigenvalue_max == pytest.approx(high, rel=1e-6)


# Both ends


def assert_ends(ends, true, tolerance):
    """Check both ends against all true eigenvalues, by the residuals and the contract."""
    largest = np.abs(true).max()
    for value, residual, end in (
        (ends.eigenvalue_min, ends.residual_min, true[0]),
        (ends.eigenvalue_max, ends.residual_max, true[-1]),
    ):
        allowed = max(tolerance * abs(value), 1e-4 * largest)
        assert residual <= allowed
        assert np.abs(value - true).min() <= residual + 1e-13 * largest
        assert abs(value - end) <= allowed
    assert ends.converged


@pytest.mark.parametrize("tolerance", [1e-1, 1e-2, 1e-3])
def test_both_ends_of_a_network_are_within_the_tolerance(solved, tolerance):
    """Of a network with batch norm and a residual one, near a minimum and away from it."""
    case, _, true = solved
    ends = extreme_eigenvalues(case.hessian(), Lanczos(tolerance=tolerance))
    assert true[0] < 0 < true[-1]
    assert_ends(ends, true, tolerance)


def test_residuals_are_the_norms_they_are_said_to_be(solved):
    """The residual of the decomposition is that of the vectors, which are of unit norm."""
    case, matrix, _ = solved
    ends = extreme_eigenvalues(case.hessian(), Lanczos(tolerance=0.05))
    for value, residual, v in (
        (ends.eigenvalue_min, ends.residual_min, ends.vector_min),
        (ends.eigenvalue_max, ends.residual_max, ends.vector_max),
    ):
        assert float(v.norm()) == pytest.approx(1, rel=1e-12)
        assert float((matrix @ v - value * v).norm()) == pytest.approx(
            residual, rel=1e-6, abs=1e-11
        )
        assert v[v.abs().argmax()] > 0


def test_both_ends_are_those_of_arpack(solved):
    """SciPy's both-ends mode finds the same two eigenvalues."""
    case, matrix, _ = solved
    operator = LinearOperator(matrix.shape, lambda v: matrix.numpy() @ v, dtype=np.float64)
    low, high = eigsh(operator, k=2, which="BE", return_eigenvectors=False)
    ends = extreme_eigenvalues(case.hessian(), TIGHT)
    assert abs(ends.eigenvalue_min - low) <= ends.residual_min
    assert ends.eigenvalue_max == pytest.approx(high, rel=1e-6)


def test_float32_agrees_with_float64(network):
    """Vectors and products in float32 change the ends by less than 1e-4."""
    case = network(60)
    exact = extreme_eigenvalues(case.hessian(), Lanczos(tolerance=1e-3))
    single = Case(network(60).model.float(), case.inputs.float(), case.targets)
    ends = extreme_eigenvalues(single.hessian(), Lanczos(tolerance=1e-3))
    assert ends.vector_min.dtype == torch.float32
    assert ends.eigenvalue_max == pytest.approx(exact.eigenvalue_max, rel=1e-4)
    assert ends.eigenvalue_min == pytest.approx(
        exact.eigenvalue_min, rel=1e-3, abs=1e-4 * exact.eigenvalue_max
    )


SPECTRA = {
    "indefinite": np.linspace(-3, 5, 300),
    "positive": np.geomspace(1e-6, 10, 300),
    "negative": -np.geomspace(1e-2, 10, 300),
    "near twins at both ends": np.r_[-1, -1 + 1e-7, np.linspace(-0.5, 1, 300), 2 - 1e-7, 2],
    "clusters": np.repeat([-2.0, 0.0, 7.0], 100),
    "network": np.r_[-0.02, -0.01 * np.random.default_rng(0).random(100), np.zeros(200), 0.5, 2],
}


@pytest.mark.parametrize("kind", SPECTRA)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_known_spectra(kind, dtype):
    """Indefinite, definite, nearly and exactly degenerate spectra, within the residuals."""
    matrix, _ = with_spectrum(SPECTRA[kind], dtype=dtype)
    ends = extreme_eigenvalues(matrix, Lanczos(tolerance=1e-2, max_products=500))
    assert ends.products == matrix.products
    assert_ends(ends, np.sort(SPECTRA[kind]), 1e-2)


def test_small_eigenvalue_is_not_asked_below_the_floor():
    """An end at zero converges: its residual may be 1e-4 of the largest modulus."""
    matrix, _ = with_spectrum(np.r_[np.zeros(150), np.linspace(0, 1, 150)])
    ends = extreme_eigenvalues(matrix, Lanczos(tolerance=1e-6))
    assert ends.converged
    assert abs(ends.eigenvalue_min) <= ends.residual_min <= 1e-4


@pytest.mark.parametrize("basis", [4, 8, 20])
def test_restarts_change_memory_not_values(solved, basis):
    """A basis of a few vectors takes more products to the same ends."""
    _, matrix, true = solved
    roomy = extreme_eigenvalues(Matrix(matrix), Lanczos(tolerance=1e-3, basis=200))
    tight = Lanczos(tolerance=1e-3, basis=basis, max_products=2000)
    ends = extreme_eigenvalues(Matrix(matrix), tight)
    assert_ends(ends, true, 1e-3)
    assert ends.products >= roomy.products


def test_basis_stays_orthonormal_through_restarts():
    """The decomposition ``H V = V T + v b'`` holds after many restarts."""
    matrix, _ = with_spectrum(SPECTRA["positive"])
    run = Krylov(matrix, random_vector(300), Lanczos(basis=10, max_products=60))
    while run.extend():
        run.make_room(lambda values, count: np.arange(len(values) - count, len(values)))
    values, residuals = run.ritz()
    vectors = run.vectors(np.arange(len(values)))
    gram = vectors @ vectors.T
    torch.testing.assert_close(gram, torch.eye(len(values), dtype=torch.float64))
    true = matrix.matrix @ vectors.T - vectors.T * torch.from_numpy(values)
    np.testing.assert_allclose(true.norm(dim=0).numpy(), residuals, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_tiny_matrices_are_solved_exactly(size):
    """With fewer dimensions than steps the run ends at the whole space."""
    matrix, _ = with_spectrum(np.linspace(-1, 2, size) if size > 1 else [-3.0])
    ends = extreme_eigenvalues(matrix, Lanczos(tolerance=1e-10))
    true = torch.linalg.eigvalsh(matrix.matrix).numpy()
    assert ends.products == size
    assert ends.converged
    assert [ends.eigenvalue_min, ends.eigenvalue_max] == pytest.approx([true[0], true[-1]])


@pytest.mark.parametrize(("scale", "value"), [(0.0, 0.0), (-2.5, -2.5)])
def test_multiples_of_the_identity_take_one_product(scale, value):
    """Every vector is an eigenvector: the subspace is invariant at once."""
    matrix = Matrix(scale * torch.eye(50, dtype=torch.float64))
    ends = extreme_eigenvalues(matrix, Lanczos())
    assert ends.products == 1
    assert ends.converged
    assert [ends.eigenvalue_min, ends.eigenvalue_max] == pytest.approx([value, value])
    assert ends.residual_max <= 1e-13


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_float32_survives_extreme_scales(scale):
    """Far from the centre curvature is huge; its squares would overflow, or vanish."""
    matrix, _ = with_spectrum(np.linspace(-1, 3, 100) * scale, dtype=torch.float32)
    ends = extreme_eigenvalues(matrix, Lanczos(tolerance=1e-2))
    assert ends.converged
    assert ends.eigenvalue_max == pytest.approx(3 * scale, rel=1e-2)
    assert ends.eigenvalue_min == pytest.approx(-scale, rel=1e-2)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_products_that_are_not_finite_give_nan(bad):
    """A diverged cell has no eigenvalues; that is a result, not an error."""
    matrix, _ = with_spectrum(np.linspace(-1, 1, 60))

    def broken(vector):
        product = matrix(vector)
        return product.fill_(bad) if matrix.products == 4 else product

    broken.size, broken.dtype, broken.device = matrix.size, matrix.dtype, matrix.device
    ends = extreme_eigenvalues(broken, Lanczos())
    assert ends.products == 4
    assert not ends.converged
    numbers = (ends.eigenvalue_min, ends.eigenvalue_max, ends.residual_min, ends.residual_max)
    assert all(map(math.isnan, numbers))
    again = extreme_eigenvalues(matrix, Lanczos(), [ends.vector_min, ends.vector_max])
    assert again.eigenvalue_min == extreme_eigenvalues(matrix, Lanczos()).eigenvalue_min


def test_budget_of_products_is_kept():
    """A run that is cut short says so, with the residuals it reached."""
    matrix, _ = with_spectrum(SPECTRA["indefinite"])
    ends = extreme_eigenvalues(matrix, Lanczos(tolerance=1e-9, max_products=9))
    assert ends.products == matrix.products == 9
    assert not ends.converged
    assert -3 <= ends.eigenvalue_min <= -3 + ends.residual_min
    assert 5 - ends.residual_max <= ends.eigenvalue_max <= 5


def test_seed_decides_the_start(solved):
    """One seed, one result to the last bit; another agrees within both residuals."""
    case, _, _ = solved
    first, again, other = (
        extreme_eigenvalues(case.hessian(), Lanczos(seed=seed)) for seed in (0, 0, 1)
    )
    assert first.eigenvalue_min == again.eigenvalue_min
    assert torch.equal(first.vector_max, again.vector_max)
    assert first.eigenvalue_min != other.eigenvalue_min
    difference = abs(first.eigenvalue_min - other.eigenvalue_min)
    assert difference <= first.residual_min + other.residual_min


def test_neighbours_vectors_save_products():
    """From the ends of a matrix nearby, fewer products give the same ends."""
    near, _ = with_spectrum(SPECTRA["network"])
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(near.matrix.shape, generator=generator, dtype=torch.float64)
    here = Matrix(near.matrix + 2e-5 * (noise + noise.T))
    known = extreme_eigenvalues(near, Lanczos())
    cold = extreme_eigenvalues(here, Lanczos())
    warm = extreme_eigenvalues(here, Lanczos(), [known.vector_min, known.vector_max])
    assert warm.products < cold.products
    assert_ends(warm, torch.linalg.eigvalsh(here.matrix).numpy(), 1e-2)


def test_start_that_misses_the_ends_still_finds_them():
    """Exact eigenvectors of inner eigenvalues do not hide the outer ones."""
    values = np.r_[-5, -1, np.linspace(-0.1, 0.1, 300), 1, 6]
    matrix, basis = with_spectrum(values)
    ends = extreme_eigenvalues(matrix, Lanczos(), [basis[:, 1], basis[:, -2]])
    assert_ends(ends, np.sort(values), 1e-2)


def test_options_that_make_no_sense_are_refused():
    """A basis too small to restart, no products, no tolerance."""
    matrix, _ = with_spectrum([1.0, 2.0])
    for options in (Lanczos(basis=3), Lanczos(max_products=0), Lanczos(tolerance=0)):
        with pytest.raises(ValueError, match="expected basis >= 4"):
            extreme_eigenvalues(matrix, options)


def test_memory_is_that_of_the_basis():
    """What is planned for depends on the basis, not on the products; the run allocates it."""
    size = 100_000
    diagonal = torch.linspace(-1, 1, size, dtype=torch.float64)

    def product(vector):
        return diagonal * vector

    product.size, product.dtype, product.device = size, torch.float64, diagonal.device
    run = Krylov(product, torch.ones(size, dtype=torch.float64), Lanczos(basis=8))
    held = sum(t.nbytes for t in vars(run).values() if isinstance(t, torch.Tensor))
    assert held == 9 * size * 8
    assert held < krylov_bytes(size, torch.float64, 8) < 2.3 * held


# The largest moduli


def test_leading_pairs_are_those_of_largest_modulus(solved):
    """Of either sign, orthonormal, and eigenvectors as good as their residuals."""
    case, matrix, true = solved
    pairs = leading_eigenvectors(case.hessian(), 4, Lanczos(tolerance=1e-3, max_products=500))
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
    pairs = leading_eigenvectors(matrix, 3, Lanczos(tolerance=1e-4, basis=10, max_products=900))
    np.testing.assert_allclose(pairs.values, [-9, -8, 7], atol=1e-4)


def test_multiple_eigenvalue_is_seen_once():
    """A single run has no second vector of an eigenspace: fewer pairs, and it says so."""
    pairs = leading_eigenvectors(Matrix(torch.eye(20, dtype=torch.float64)), 2, Lanczos())
    np.testing.assert_allclose(pairs.values, [1.0])
    assert not pairs.converged


def test_number_of_leading_pairs_is_checked():
    """A basis of ten has room for four pairs besides what finds them."""
    matrix, _ = with_spectrum(np.arange(30.0))
    for count in (0, 5):
        with pytest.raises(ValueError, match=f"expected 1 to 4 with basis 10, got {count}"):
            leading_eigenvectors(matrix, count, Lanczos(basis=10))


# Trace and density


def test_trace_is_within_its_own_error(solved):
    """The estimate lies within four standard errors of the dense trace."""
    _, matrix, _ = solved
    estimate = trace(Matrix(matrix), probes=40, seed=3)
    assert estimate.products == 40
    assert estimate.standard_error > 0
    assert abs(estimate.value - float(matrix.trace())) <= 4 * estimate.standard_error


def test_standard_error_is_hutchinsons(mlp):
    """With many probes it is the one that the off-diagonal elements give."""
    matrix = mlp.dense()
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


def test_density_integrates_to_one_with_the_moments_of_the_spectrum(solved):
    """Mass one; mean and mean square within the scatter of the probes."""
    _, matrix, true = solved
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


def test_estimates_are_seeded(mlp):
    """One seed, one result; probes that are not finite give NaN."""
    hessian = mlp.hessian()
    assert trace(hessian, probes=2) == trace(hessian, probes=2)
    assert trace(hessian, probes=2) != trace(hessian, probes=2, seed=1)
    first, again = (spectral_density(hessian, probes=2, steps=8) for _ in range(2))
    np.testing.assert_array_equal(first.density, again.density)
    broken = Matrix(torch.full((5, 5), math.nan, dtype=torch.float64))
    assert math.isnan(trace(broken, probes=2).value)
    assert np.isnan(spectral_density(broken, probes=2).density).all()
    with pytest.raises(ValueError, match="probes >= 1"):
        spectral_density(hessian, probes=0)
