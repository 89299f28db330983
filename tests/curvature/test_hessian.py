"""Products with the Hessian, against dense Hessians and another library."""

from __future__ import annotations

import subprocess
import sys

import curvlinops
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from lsengine.curvature import Hessian, LanczosOptions, Way, extreme_eigenvalues
from tests.support import decoder
from tests.support.hessians import Case, Matrix, cross_entropy, network, random_vector, solved
from tests.support.networks import build


def _of_tokens(output, targets):
    return F.cross_entropy(output.mT, targets, reduction="none").mean(1)


@pytest.fixture(scope="module")
def mlp():
    """A small smooth network in float64 with batch norm, away from a minimum."""
    return network("small", 3)


def test_product_is_that_of_the_dense_hessian_of_the_mean(case_solved):
    """Batches of 7, 3 and the rest give the mean over samples, not over batches."""
    case, matrix, _ = case_solved
    hessian = case.hessian()
    v = random_vector(hessian.size)
    assert hessian.way.kind == "forward"
    torch.testing.assert_close(hessian(v), matrix @ v, rtol=1e-9, atol=1e-10)


def test_product_does_not_depend_on_the_cut_into_batches(mlp):
    """One batch, many, and batches of a single sample are the same mean."""
    v = random_vector(mlp.hessian().size)
    expected = mlp.hessian()(v)
    for sizes in ([30], [29, 1], [1] * 30):
        product = Hessian(mlp.model, mlp.batches(*sizes), mlp.loss)(v)
        torch.testing.assert_close(product, expected, rtol=1e-10, atol=1e-12)


def test_two_backward_passes_give_the_same_product(case_solved):
    """The fallback agrees with reverse over forward, parameters without effect included."""
    case, matrix, _ = case_solved
    hessian = case.hessian()
    hessian.way = Way(kind="reverse")
    v = random_vector(hessian.size)
    torch.testing.assert_close(hessian(v), matrix @ v, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("kind", ["forward", "reverse", "differences"])
def test_a_row_of_padding_is_constant(kind):
    """No training changes it, so the Hessian has zeros there; the rest is as for other rows."""
    torch.manual_seed(0)
    layers = nn.Embedding(6, 3, padding_idx=2), nn.Flatten(), nn.Tanh(), nn.Linear(12, 3)
    model = nn.Sequential(*layers).double().eval()
    with torch.no_grad():
        model[0].weight.normal_()  # a checkpoint may have numbers there
    tokens, targets = torch.randint(0, 6, (20, 4)), torch.randint(0, 3, (20,))
    table_VE, others = model[0].weight.detach().clone(), torch.arange(6) != 2

    def mean_loss(flat):
        moved_VE, weight, bias = flat[:18].view(6, 3), flat[18:54].view(3, 12), flat[54:]
        table = torch.where(others[:, None], moved_VE, table_VE)
        h = torch.tanh(F.one_hot(tokens, 6).double() @ table).flatten(1)
        return F.cross_entropy(h @ weight.T + bias, targets)

    flat = torch.cat([p.detach().flatten() for p in model.parameters()])
    hessian = Hessian(model, [(tokens[:7], targets[:7]), (tokens[7:], targets[7:])], cross_entropy)
    assert hessian.way.kind == "forward"
    hessian.way = Way(kind=kind)
    v = random_vector(hessian.size)
    rtol = 1e-4 if kind == "differences" else 1e-9
    expected = torch.func.hessian(mean_loss)(flat) @ v
    torch.testing.assert_close(hessian(v), expected, rtol=rtol, atol=rtol)
    assert not hessian(v)[6:9].any()


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_a_decoder_of_tokens_has_the_hessian_of_its_formulas(positions):
    """Attention has kernels without second derivatives, and torch a wrong one of its norms."""
    torch.manual_seed(0)
    sizes = {"depth": 1, "width": 4, "heads": 2, "positions": positions}
    model = build("gpt", channels=3, classes=5, size=None, **sizes).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    tokens, targets = torch.randint(0, 5, (3, 3)), torch.randint(0, 5, (3, 3))
    names = dict(model.named_parameters())
    lengths = [p.numel() for p in names.values()]

    def mean_loss(flat):
        pieces = zip(names.items(), flat.split(lengths), strict=True)
        weights = {name: piece.view_as(p) for (name, p), piece in pieces}
        rows = [decoder.logits(weights, sample, depth=1, heads=2) for sample in tokens]
        return F.cross_entropy(torch.cat(rows), targets.flatten())

    flat = torch.cat([p.detach().flatten() for p in names.values()]).requires_grad_()
    (gradient,) = torch.autograd.grad(mean_loss(flat), flat, create_graph=True)
    hessian = Hessian(model, [(tokens[:2], targets[:2]), (tokens[2:], targets[2:])], _of_tokens)
    assert hessian.size == len(flat)
    for unit in torch.eye(hessian.size).double()[::19]:
        (row,) = torch.autograd.grad(gradient @ unit, flat, retain_graph=True)
        torch.testing.assert_close(hessian(unit), row, rtol=1e-8, atol=1e-10)


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
    assert plain.hessian().way.kind == "reverse"
    assert twin.hessian().way.kind == "forward"
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
    for hessian.way in (Way(kind="forward"), Way(kind="reverse")):
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
        assert extreme_eigenvalues(hessian, LanczosOptions()).converged


def test_vectors_are_viewed_as_tensors_like_the_parameters(mlp):
    """A vector's pieces are shaped like the parameters, one after the other, row-major."""
    hessian = mlp.hessian()
    v = random_vector(hessian.size)
    pieces = hessian.unflatten(v)
    assert {k: t.shape for k, t in pieces.items()} == {
        k: p.shape for k, p in mlp.model.named_parameters()
    }
    assert torch.equal(torch.cat([piece.flatten() for piece in pieces.values()]), v)
    pieces["0.bias"][0] = 7.0
    assert v[hessian.unflatten(v)["0.weight"].numel()] == 7.0


def test_misuse_is_refused(mlp):
    """Unknown names, no names, no data, training mode and wrong lengths."""
    with pytest.raises(ValueError, match=r"no parameter 0\.weigth"):
        mlp.hessian(names=["0.weigth"])
    with pytest.raises(ValueError, match="and 0 parameters"):
        mlp.hessian(names=[])
    with pytest.raises(ValueError, match="got 0 samples"):
        Hessian(mlp.model, [], mlp.loss)
    with pytest.raises(ValueError, match="training mode"):
        Hessian(nn.Linear(5, 3).double(), mlp.batches(30), mlp.loss)
    with pytest.raises(ValueError, match="expected shape"):
        mlp.hessian()(torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["mlp", "resnet"])
def test_products_are_those_of_curvlinops(kind):
    """An independent public implementation gives the same products and the same residuals."""
    case = network(kind, 2)
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
        ends = extreme_eigenvalues(Matrix(solved(kind, 2)[1]), LanczosOptions())
        for value, residual, v in (
            (ends.values[0], ends.residuals[0], ends.vectors[0]),
            (ends.values[1], ends.residuals[1], ends.vectors[1]),
        ):
            error = float((theirs @ v - value * v).norm())
            assert error == pytest.approx(residual, rel=1e-4, abs=1e-9)
    finally:
        model.requires_grad_(False)


def test_a_product_does_not_load_the_compiler():
    """Every worker would wait two seconds for it."""
    script = """
import sys, torch
from lsengine.curvature import Hessian
batch = torch.ones(4, 3), torch.zeros(4, dtype=torch.long)
loss = torch.nn.functional.cross_entropy
hessian = Hessian(torch.nn.Linear(3, 2).eval(), [batch], loss)
assert hessian.way.kind == "forward" and hessian(torch.arange(8.0)).norm() > 0
print(sorted({"torch._dynamo", "torch._inductor"} & sys.modules.keys()))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
