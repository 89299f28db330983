"""The decoder of tokens, against a loop over its tokens."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from lsengine.errors import UsageError
from tests.support import decoder
from tests.support.networks import build

VOCABULARY, CONTEXT = 7, 6


def gpt(**args):
    """Build a tiny one in float64, with numbers that are no longer small or zero."""
    torch.manual_seed(0)
    sizes = {"depth": 2, "width": 12, "heads": 3}
    model = build("gpt", channels=CONTEXT, classes=VOCABULARY, size=None, **{**sizes, **args})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.double().eval()


def tokens(samples=4):
    """Draw tokens."""
    return torch.randint(0, VOCABULARY, (samples, CONTEXT), generator=torch.Generator())


@pytest.mark.parametrize(
    "args",
    [{}, {"positions": "learned"}, {"residual": False}, {"norm": False}, {"dropout": 0.5}],
    ids=str,
)
def test_logits_are_those_of_a_loop_over_tokens(args):
    """Rotary or learned positions, with and without residual sums and norms; no dropout here."""
    model, x = gpt(**args), tokens()
    weights = {name: p.detach() for name, p in model.named_parameters()}
    logits = model(x)
    assert logits.shape == (4, CONTEXT, VOCABULARY)
    for sentence, found in zip(x, logits, strict=True):
        residual = args.get("residual", True)
        expected = decoder.logits(weights, sentence, depth=2, heads=3, residual=residual)
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.06)])
def test_other_precisions_are_near(dtype, tolerance):
    """As near as their numbers are."""
    model, x = gpt(), tokens()
    exact = model(x)
    rough = model.to(getattr(torch, dtype))(x).double()
    error = (rough - exact).detach().abs().max() / exact.detach().abs().max()
    assert float(error) < tolerance


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_later_tokens_change_nothing_before_them(positions):
    """The logits up to a token are those of the text that ends there, too."""
    model, x = gpt(positions=positions), tokens()
    whole = model(x)
    for length in range(1, CONTEXT):
        other = x.clone()
        other[:, length:] = (other[:, length:] + 1) % VOCABULARY
        torch.testing.assert_close(model(other)[:, :length], whole[:, :length])
        assert not torch.allclose(model(other)[:, length], whole[:, length])
        torch.testing.assert_close(model(x[:, :length]), whole[:, :length])


def test_a_permuted_vocabulary_permutes_the_logits():
    """Rows of the embedding in another order, tokens renumbered alike."""
    model, x = gpt(), tokens()
    order = torch.randperm(VOCABULARY, generator=torch.Generator().manual_seed(1))
    before = model(x)
    with torch.no_grad():
        model.embedding.weight.copy_(model.embedding.weight[order])
    torch.testing.assert_close(model(order.argsort()[x]), before[..., order])


def test_the_tied_embedding_is_one_parameter():
    """It is counted once, and its gradient is that of both its uses."""
    model, x = gpt(), tokens()
    width, depth = 12, 2
    of_block = 4 * width * (width + 1) + 8 * width**2 + 5 * width + 4 * width
    expected = VOCABULARY * width + depth * of_block + 2 * width
    assert sum(p.numel() for p in model.parameters()) == expected
    assert [n for n in model.state_dict() if "blocks" not in n] == [
        "embedding.weight", "norm.weight", "norm.bias",
    ]  # fmt: skip
    F.cross_entropy(model(x).flatten(0, 1), x.flatten()).backward()
    gradient, step = model.embedding.weight.grad[2, 3], 1e-5
    values = []
    for shift in (step, -2 * step):
        with torch.no_grad():
            model.embedding.weight[2, 3] += shift
            values.append(F.cross_entropy(model(x).flatten(0, 1), x.flatten()).item())
    assert float(gradient) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-6)


def test_zero_weights_lose_the_logarithm_of_the_vocabulary():
    """All tokens are alike then."""
    model, x = gpt(), tokens()
    with torch.no_grad():
        model.embedding.weight.zero_()
    assert F.cross_entropy(model(x).flatten(0, 1), x.flatten()).item() == pytest.approx(
        math.log(VOCABULARY), rel=1e-14
    )


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"heads": 5}, r"rotary positions need heads of an even width; width 12, heads 5"),
        ({"heads": 4, "width": 18, "positions": "learned"}, "width 18 is no multiple of heads 4"),
        ({"positions": "relative"}, r"args.positions: allowed: rotary, learned, got 'relative'"),
        ({"residual": 1}, r"args.residual: expected true or false, got 1"),
        ({"dropout": 1.0}, r"args.dropout: expected a number from 0 to below 1, got 1.0"),
        ({"depth": 1.5}, r"args.depth: expected an integer of at least 1, got 1.5"),
        ({"layers": 3}, r"args.layers: gpt takes no such argument; allowed: context, vocabulary"),
    ],
    ids=str,
)
def test_wrong_arguments_are_named(args, said):
    """With what is allowed."""
    with pytest.raises(UsageError, match=said):
        gpt(**args)


def test_what_are_no_tokens_or_too_many_is_refused():
    """Images, and samples that are longer than the context."""
    with pytest.raises(UsageError, match=r"gpt needs tokens, .*the data are images of 8x8"):
        build("gpt", channels=1, size=(8, 8))
    with pytest.raises(ValueError, match=r"got 6 tokens; model.args.context is 5"):
        gpt(context=5)(tokens())
