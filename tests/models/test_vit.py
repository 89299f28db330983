"""The vision transformer, against plain code."""

from __future__ import annotations

import math

import pytest
import torch

from lsengine.errors import UsageError
from tests.support.networks import build


def vit(**args):
    """Build a tiny one in float64, with numbers that are no longer small or zero."""
    torch.manual_seed(0)
    sizes = {"patch": 4, "depth": 1, "width": 6, "heads": 2}
    model = build("vit", channels=2, classes=3, size=(8, 12), **{**sizes, **args})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.double().eval()


def naive(w, image):
    """Return the logits of one image (C, H, W), patch by patch and token by token."""

    def linear(x, name):
        return torch.einsum("oi,ti->to", w[f"{name}.weight"], x) + w[f"{name}.bias"]

    def norm(x, name):
        x = x - x.mean(1, keepdim=True)
        return (
            w[f"{name}.weight"] * x / (x.square().mean(1, True) + 1e-5).sqrt() + w[f"{name}.bias"]
        )

    patches = [image[:, r : r + 4, c : c + 4] for r in (0, 4) for c in (0, 4, 8)]
    x = torch.stack([torch.einsum("dcij,cij->d", w["patches.weight"], p) for p in patches])
    x = x + w["patches.bias"] + w["positions.weight"]
    y = norm(x, "blocks.0.norm1")
    query, key, value = (linear(y, f"blocks.0.attention.{n}") for n in ("query", "key", "value"))
    heads = []
    for of_head in (slice(0, 3), slice(3, 6)):
        scores = torch.einsum("te,se->ts", query[:, of_head], key[:, of_head]) / math.sqrt(3)
        shares = scores.exp() / scores.exp().sum(1, keepdim=True)
        heads.append(torch.einsum("ts,se->te", shares, value[:, of_head]))
    x = x + linear(torch.cat(heads, 1), "blocks.0.attention.output")
    inner = linear(norm(x, "blocks.0.norm2"), "blocks.0.mlp.up")
    inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
    x = x + linear(inner, "blocks.0.mlp.down")
    return linear(norm(x, "norm").mean(0, keepdim=True), "head")[0]


def test_logits_are_those_of_plain_code():
    """One image at a time."""
    model, x = vit(), torch.randn(5, 2, 8, 12, dtype=torch.float64)
    weights = {name: p.detach() for name, p in model.named_parameters()}
    expected = torch.stack([naive(weights, image) for image in x])
    torch.testing.assert_close(model(x), expected, rtol=1e-11, atol=1e-11)


def test_dropout_is_of_the_training_alone():
    """It draws there, and not in evaluation mode."""
    model, x = vit(dropout=0.5), torch.randn(5, 2, 8, 12, dtype=torch.float64)
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.allclose(model(x), model(x))


def test_images_have_to_consist_of_patches():
    """Another side is refused with both sizes."""
    with pytest.raises(UsageError, match="patches of 5x5 do not tile images of 8x12"):
        vit(patch=5)
