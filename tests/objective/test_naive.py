"""The naive evaluation against values by hand; it is what the engine is checked by."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lsengine.objective import naive, naive_losses


def _line():
    model = nn.Linear(1, 1)
    with torch.no_grad():
        model.weight.fill_(2.0)
        model.bias.fill_(1.0)
    return model


def test_a_displaced_line_has_the_losses_of_its_formula():
    """At w + a v the squared error is that of (2 + a v) x + 1, whatever the sizes of batches."""
    network = naive.NaiveNetwork(_line)
    x, y = torch.tensor([[0.0], [1.0], [3.0]]), torch.zeros(3, 1).double()
    network.displace((0.5,), [{"weight": torch.tensor([[4.0]])}])
    expected = [((2 + 0.5 * 4) * v + 1) ** 2 for v in (0.0, 1.0, 3.0)]
    for sizes in ([3], [1, 2]):
        values = network.evaluate(x, y, naive_losses.mse, sizes)
        assert values.losses.tolist() == pytest.approx(expected)
        assert values.loss == pytest.approx(sum(expected) / 3)
    network.displace((), [])
    assert network.evaluate(x, y, naive_losses.mse, [3]).loss == pytest.approx((1 + 9 + 49) / 3)


def test_a_weighted_mean_is_that_of_all_samples():
    """Batches count by their weights, not by their sizes."""
    network = naive.NaiveNetwork(_line)
    x, y = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([1.0, 2.0, 5.0]).double()

    def loss(output, weights):
        return output[:, 0], weights

    values = network.evaluate(x, y, loss, [1, 2])
    assert values.loss == pytest.approx((1 * 1 + 3 * 2 + 5 * 5) / 8)


def test_complex_networks_become_wide_and_stay_complex():
    """Bringing a network to float64 drops no imaginary part."""
    model = nn.ParameterList([torch.tensor([1 + 2j], dtype=torch.complex64)])
    assert naive.widened(model)[0].dtype == torch.complex128
    assert naive.widened(model)[0].tolist() == [1 + 2j]


@pytest.mark.parametrize("t", [0.0, 0.25, 0.5, 0.8, 1.0])
def test_weights_of_a_curve_are_those_of_its_definition(t):
    """Of a quadratic Bezier curve Bernstein's polynomials, of a chain the two ends of a piece."""
    bezier = [(1 - t) ** 2, 2 * t * (1 - t), t**2]
    chain = [max(0, 1 - 2 * t), 1 - abs(2 * t - 1), max(0, 2 * t - 1)]
    assert naive.curve_weights("bezier", 3, t) == pytest.approx(bezier)
    assert naive.curve_weights("polygonal", 3, t) == pytest.approx(chain)
