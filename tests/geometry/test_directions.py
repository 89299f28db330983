"""Directions: drawing, normalising, ignoring, making orthogonal."""

from __future__ import annotations

import math

import pytest
import torch

from lsengine.geometry.directions import cosine, draw, normalized, orthogonalized, toward


@pytest.fixture
def weights():
    """A convolution, a fully connected layer and a bias with norms far from one."""
    generator = torch.Generator().manual_seed(3)
    return {
        "conv.weight": 5 * torch.randn(4, 3, 3, 3, generator=generator),
        "fc.weight": 0.01 * torch.randn(2, 8, generator=generator),
        "fc.bias": torch.tensor([3.0, 4.0]),
    }


def _filters(tensor):
    return tensor.reshape(1, -1) if tensor.ndim < 2 else tensor.flatten(1)


def test_filters_take_the_norm_of_the_weights(weights):
    """Every filter of the result is as long as the model's own; one axis is one filter."""
    result = normalized(draw(weights, seed=1, axis=0), weights, "filter")
    for name, w in weights.items():
        expected = _filters(w).norm(dim=1)
        torch.testing.assert_close(_filters(result[name]).norm(dim=1), expected)


def test_filter_normalisation_keeps_each_filters_direction(weights):
    """Only the length of a filter changes: the cosine with the raw filter is one."""
    raw = draw(weights, seed=1, axis=0)
    result = normalized(raw, weights, "filter")
    for name in weights:
        cosines = torch.cosine_similarity(_filters(raw[name]), _filters(result[name]))
        torch.testing.assert_close(cosines, torch.ones_like(cosines))


def test_layers_take_the_norm_of_the_layer(weights):
    """Layer normalisation matches the norm of whole parameters."""
    result = normalized(draw(weights, seed=1, axis=0), weights, "layer")
    for name, w in weights.items():
        assert float(result[name].norm()) == pytest.approx(float(w.norm()), rel=1e-6)


def test_weight_normalisation_multiplies_by_the_modulus(weights):
    """A weight of zero does not move; the others move in proportion to themselves."""
    raw = draw(weights, seed=1, axis=0)
    result = normalized(raw, weights, "weight")
    torch.testing.assert_close(result["fc.bias"], raw["fc.bias"] * torch.tensor([3.0, 4.0]))


def test_filters_of_zero_weights_do_not_move(weights):
    """A filter whose weights are all zero has norm zero in the direction too."""
    weights["conv.weight"][1] = 0
    result = normalized(draw(weights, seed=1, axis=0), weights, "filter")
    assert result["conv.weight"][1].abs().max() == 0


def test_scaling_a_filter_scales_its_direction(weights):
    """The reason for filter normalisation: twice the weights, twice the direction."""
    raw = draw(weights, seed=1, axis=0)
    scaled = {n: (w * 7 if n == "conv.weight" else w) for n, w in weights.items()}
    one, other = normalized(raw, weights, "filter"), normalized(raw, scaled, "filter")
    torch.testing.assert_close(other["conv.weight"], 7 * one["conv.weight"])
    assert torch.equal(other["fc.weight"], one["fc.weight"])


def test_a_seed_gives_the_same_direction_everywhere(weights):
    """On any machine and by any NumPy: these are the values, which old surfaces were made with.

    NumPy does not promise its deviates from version to version.  If this fails, a new NumPy
    draws others, and `draw` needs a generator of its own.
    """
    found = [
        draw(weights, seed=1, axis=axis, repeat=repeat)["conv.weight"].flatten()[:3].tolist()
        for axis, repeat in ((0, 0), (1, 0), (0, 2))
    ]
    assert found == [
        [1.7291035652160645, -1.4284534454345703, 1.0277447700500488],
        [0.4224525988101959, 0.7154563069343567, 0.5026089549064636],
        [-1.07862389087677, -0.14619117975234985, 1.839064359664917],
    ]


@pytest.mark.parametrize("other", [(2, 0, 0), (1, 1, 0), (1, 0, 1)])
def test_seed_axis_and_repeat_each_make_another_direction(weights, other):
    """Different seeds, axes and repeats give directions with nearly no overlap."""
    seed, axis, repeat = other
    one = draw(weights, seed=1, axis=0)
    two = draw(weights, seed=seed, axis=axis, repeat=repeat)
    assert abs(cosine(one, two)) < 5 / math.sqrt(sum(w.numel() for w in weights.values()))


def test_deviates_are_standard_normal():
    """Mean 0, variance 1 and kurtosis 3 over a million draws, to five standard errors."""
    values = draw({"w": torch.empty(1000, 1000)}, seed=4, axis=0)["w"].double()
    assert abs(float(values.mean())) < 5e-3
    assert abs(float(values.var()) - 1) < 5 * math.sqrt(2e-6)
    assert abs(float((values**4).mean()) - 3) < 5 * math.sqrt(96e-6)


@pytest.mark.parametrize("how", ["filter", "layer", "none"])
def test_orthogonal_directions_stay_orthogonal_when_normalised(weights, how):
    """The cosine is zero after normalising the same way, and the norms still match."""
    del weights["fc.bias"]
    alpha = normalized(draw(weights, seed=1, axis=0), weights, how)
    beta = orthogonalized(draw(weights, seed=1, axis=1), alpha, how)
    beta = normalized(beta, weights, how)
    assert abs(cosine(alpha, beta)) < 1e-6
    if how == "filter":
        norms = _filters(beta["conv.weight"]).norm(dim=1)
        torch.testing.assert_close(norms, _filters(weights["conv.weight"]).norm(dim=1))


def test_cosine_agrees_with_the_definition(weights):
    """Dot product over the product of lengths, of the flattened directions."""
    one, two = draw(weights, seed=1, axis=0), draw(weights, seed=2, axis=0)
    flat = [torch.cat([t.flatten() for t in d.values()]).double() for d in (one, two)]
    expected = float(torch.dot(*flat) / flat[0].norm() / flat[1].norm())
    assert cosine(one, two) == pytest.approx(expected, rel=1e-12)


def test_the_other_checkpoint_lies_at_one(weights):
    """The centre plus the direction toward a checkpoint is that checkpoint."""
    other = {n: w + 0.5 for n, w in weights.items()}
    direction = toward(weights, other)
    for name in weights:
        torch.testing.assert_close(weights[name] + direction[name], other[name])


@pytest.mark.parametrize("broken", ["missing", "shape"])
def test_misfits_are_refused_by_name(weights, broken):
    """A direction with other names or shapes is refused, naming the parameter."""
    direction = draw(weights, seed=1, axis=0)
    if broken == "missing":
        del direction["fc.bias"]
    else:
        direction["fc.bias"] = torch.zeros(3)
    with pytest.raises(ValueError, match=r"fc\.bias"):
        normalized(direction, weights, "filter")
