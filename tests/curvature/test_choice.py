"""Which way products take, by networks that differentiate in unusual ways."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lsengine.curvature import Hessian
from lsengine.errors import UsageError
from tests.support import odd_networks as odd
from tests.support.hessians import cross_entropy, random_vector

NETWORKS = {  # the way in float32
    "smooth": (odd.smooth, "forward"),
    "a ReLU in place": (
        lambda: nn.Sequential(nn.Linear(6, 8), nn.Softplus(), nn.ReLU(inplace=True)),
        "forward",
    ),
    "one derivative only": (lambda: odd.Middle(lambda n, h: odd.Once.apply(h)), "differences"),
    "a tensor on ctx": (lambda: odd.Middle(lambda n, h: odd.OnContext.apply(h)), "differences"),
    "a wrong jvp": (lambda: odd.Middle(lambda n, h: odd.WrongJvp.apply(h)), "reverse"),
    "a function in place": (lambda: odd.Middle(lambda n, h: odd.InPlace.apply(h)), "reverse"),
    "checkpointing of one's own": (
        lambda: odd.Middle(lambda n, h: odd.OwnCheckpoint.apply(lambda z: odd.tanh_layer(n, z), h)),
        "differences",
    ),
    "reentrant checkpointing": (lambda: odd.checkpointed(use_reentrant=True), "forward"),
    "other checkpointing": (lambda: odd.checkpointed(use_reentrant=False), "forward"),
    "checkpointing from the input on": (odd.WholeCheckpointed, "forward"),
    "an LSTM": (lambda: odd.Recurrent(nn.LSTM), None),  # oneDNN's has one derivative by float32
    "a GRU": (lambda: odd.Recurrent(nn.GRU), "forward"),
    "attention": (odd.Attention, "forward"),
    "autograd.grad inside": (lambda: odd.Residual("graph kept"), "reverse"),
    "autograd.grad without graph": (lambda: odd.Residual("graph not kept"), "reverse"),
    "autograd.functional inside": (lambda: odd.Residual("vjp"), "reverse"),
    "torch.func inside": (lambda: odd.Residual("func"), "forward"),
    "complex weights": (odd.Fourier, "forward"),
    "a buffer written": (lambda: odd.Counting(True), None),
    "a buffer replaced": (lambda: odd.Counting(False), None),
    "parameters in a list": (odd.Held, "reverse"),
    "tied weights": (odd.Tied, "forward"),
    "two dtypes": (odd.Mixed, "forward"),
    "an input written": (odd.Writing, "forward"),
    "hooks": (odd.Hooked, "forward"),
    "DataParallel": (lambda: nn.DataParallel(odd.smooth()), "reverse"),
    "TorchScript": (lambda: torch.jit.trace(odd.smooth(), torch.ones(4, 6)), "reverse"),
    "layers of one linear solve": (
        lambda: odd.Middle(
            lambda n, h: (
                torch.linalg.solve(
                    3 * torch.eye(8, dtype=h.dtype) + n.m.weight.T @ n.m.weight, h.T
                ).T
            )
        ),
        None,
    ),
}


def _made(make, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = make().eval()
        inputs, targets = torch.randn(23, 6), torch.randint(0, 3, (23,))
    return model, inputs, targets


def _batches(inputs, targets):
    return list(zip(inputs.split([11, 3, 9]), targets.split([11, 3, 9]), strict=True))


def _assert_right(hessian, model, inputs, targets, loss, rtol=1e-4):
    """Compare two bilinear forms of a Hessian with differences of losses in float64."""
    for seed in range(2):
        u, v = (random_vector(hessian.size, seed=10 * seed + n) for n in (0, 1))
        expected = odd.curvature_by_losses(model, inputs, targets, loss, u, v)
        found = float(u @ hessian(v.to(hessian.dtype)).double())
        assert found == pytest.approx(expected, rel=rtol, abs=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_products_are_those_of_plain_losses(name):
    """Whatever the network does inside, batch by batch, in float32; it is left as it was."""
    make, way = NETWORKS[name]
    model, inputs, targets = _made(make)
    before = [t.detach().clone() for t in (*model.parameters(), *model.buffers())]
    hessian = Hessian(model, _batches(inputs, targets), cross_entropy)
    assert way in (None, hessian.way.kind)
    _assert_right(hessian, model, inputs, targets, cross_entropy)
    after = (*model.parameters(), *model.buffers())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


REFUSED = {
    "a detach": (lambda: odd.Middle(lambda n, h: torch.tanh(h).detach()), r"a\.weight, a\.bias"),
    "half a detach": (
        lambda: odd.Middle(lambda n, h: torch.tanh(h) * h.detach().sigmoid()),
        r"a\.weight, a\.bias",
    ),
    "straight through": (
        lambda: odd.Middle(lambda n, h: odd.StraightThrough.apply(h)),
        r"odd_networks\.StraightThrough",
    ),
    "two derivatives of one that has one": (
        lambda: _residual_of(odd.Once.apply),
        r"no gradient: RuntimeError: .*once_differentiable",
    ),
    "no_grad": (
        lambda: odd.Middle(torch.no_grad()(odd.tanh_layer)),
        r"by a\.weight, a\.bias, m\.weight and 1 more",
    ),
}


def _residual_of(activation):
    model = odd.Residual("graph kept")
    model.u = lambda x: model.b(activation(model.a(x)))
    return model


@pytest.mark.parametrize("name", REFUSED)
def test_a_gradient_that_is_not_the_derivative_is_refused(name):
    """With the parameters behind which it is lost, or the function that has none."""
    make, message = REFUSED[name]
    model, inputs, targets = _made(make)
    with pytest.raises(UsageError, match=f"^curvature: .*{message}"):
        Hessian(model, _batches(inputs, targets), cross_entropy)


def _with_relu(function):
    return lambda: odd.Middle(lambda n, h: function(h), width=64)


def test_kinks_do_not_refuse_and_differences_step_around_them():
    """A ReLU with one derivative has the products of torch's own, with or without zero biases."""
    for bias in (True, False):
        plain, inputs, targets = _made(_with_relu(torch.relu))
        once, _, _ = _made(_with_relu(odd.OnceReLU.apply))
        for model in (plain, once):
            if not bias:
                model.a.bias.data.zero_()
        inputs[:3] = 0  # without bias at the kink itself
        theirs = Hessian(plain.double(), _batches(inputs.double(), targets), cross_entropy)
        ours = Hessian(once, _batches(inputs, targets), cross_entropy)
        assert (theirs.way.kind, ours.way.kind) == ("forward", "differences")
        v = random_vector(ours.size)
        if bias:
            torch.testing.assert_close(ours(v.float()).double(), theirs(v), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [odd.smooth, lambda: odd.Middle(lambda n, h: odd.Once.apply(h))])
@pytest.mark.parametrize("is_class_weighted", [True, False])
def test_weighted_losses_count_by_their_weights_over_all_batches(make, is_class_weighted):
    """Also where a batch has no weight at all."""
    model, inputs, targets = _made(make)

    def loss(output, target):
        weights = torch.tensor([1.0, 5.0, 20.0])[target] if is_class_weighted else target == 1
        return F.cross_entropy(output, target, reduction="none"), weights.double()

    targets[11:14] = 0
    hessian = Hessian(model, _batches(inputs, targets), loss)
    _assert_right(hessian, model, inputs, targets, loss)


def test_a_loss_that_is_one_mean_counts_by_samples():
    """Batches of 11, 3 and 9 samples are one mean over 23."""
    model, inputs, targets = _made(odd.smooth)
    hessian = Hessian(model, _batches(inputs, targets), F.cross_entropy)
    _assert_right(hessian, model, inputs, targets, F.cross_entropy)


def test_a_loss_that_is_no_mean_over_samples_is_refused():
    """A mean weighted by class depends on the cut into batches; the remedy is named."""
    model, inputs, targets = _made(odd.smooth)
    weights = torch.tensor([1.0, 5.0, 20.0], dtype=torch.float64)
    with pytest.raises(UsageError, match="losses and weights"):
        Hessian(
            model, _batches(inputs, targets), lambda o, t: F.cross_entropy(o, t, weight=weights)
        )


def test_a_centre_that_is_not_finite_is_not_refused(caplog):
    """A checkpoint that diverged has products that are NaN, and a line that says so."""
    model, inputs, targets = _made(odd.smooth)
    model[0].weight.data[0, 0] = torch.nan
    with caplog.at_level(logging.WARNING, logger="lsengine"):
        hessian = Hessian(model, _batches(inputs, targets), cross_entropy)
    assert "cannot be checked" in caplog.text
    assert hessian(torch.ones(hessian.size)).isnan().any()


def test_a_network_of_float32_alone_is_multiplied_in_it():
    """Where float64 is refused inside, differences are of gradients in float32."""

    class Narrow(odd.Once):
        @staticmethod
        def forward(ctx, x):
            if x.dtype != torch.float32:
                raise TypeError("float32 only")
            return odd.Once.forward(ctx, x)

    model, inputs, targets = _made(lambda: odd.Middle(lambda n, h: Narrow.apply(h)))
    twin, _, _ = _made(lambda: odd.Middle(lambda n, h: torch.tanh(h)))
    hessian = Hessian(model, _batches(inputs, targets), cross_entropy)
    assert str(hessian.way) == "differences, float32"
    expected = Hessian(twin, _batches(inputs, targets), cross_entropy)
    v = random_vector(hessian.size, dtype=torch.float32)
    assert (hessian(v) - expected(v)).norm() < 2e-2 * expected(v).norm()
