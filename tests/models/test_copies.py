"""Copies of networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lsengine.models.copies import duplicate, original_number


@pytest.mark.parametrize("normalised", [torch.nn.utils.weight_norm, torch.nn.utils.spectral_norm])
def test_a_network_that_keeps_a_result_is_copied(normalised):
    """The copy computes the same, and has numbers of its own."""
    model = normalised(nn.Linear(3, 2)).eval()
    x = torch.randn(4, 3)
    expected = model(x).detach()
    copied = duplicate(model)
    assert torch.equal(copied(x), expected)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert torch.equal(model(x), expected)


def test_the_parameters_of_a_copied_script_are_leaves():
    """Gradients are those of the copy; torch's own copy would lead them to the original."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(3, 2), nn.Tanh())
    x = torch.randn(4, 3)
    plain(x).sum().backward()
    copied = duplicate(torch.jit.script(plain))
    copied(x).sum().backward()
    for found, expected in zip(copied.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad)


def _used(model):
    return model(torch.ones(2, 4))


def test_a_number_that_a_copy_shares_with_the_original_is_named():
    """A function keeps its layers; those of a class's forward are the copy's."""
    plain, kept = (nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)) for _ in range(2))
    last = kept[1]
    kept.forward = lambda x: last(x[:, :3])
    assert original_number(plain, duplicate(plain), _used) == ""
    assert original_number(kept, duplicate(kept), _used) in ("1.weight", "1.bias")
