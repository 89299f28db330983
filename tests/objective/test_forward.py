"""Forward passes that torch.compile makes."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from lsengine.errors import EnvironmentUnfit, UsageError
from lsengine.objective.forward import Manner, compiled, in_row_major
from tests.support.objectives import CELLS, naive, objective_of


class _Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(10, 64) / 8)

    def forward(self, x):
        return torch.tanh(x.flatten(1)) @ self.weight.T


@pytest.mark.parametrize(
    "backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)]
)  # the compiler's own half takes half a minute
def test_cells_of_a_compiled_network_are_those_of_the_network(digits, monkeypatch, backend):
    """Also with a last batch of another size, and after other cells."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    torch.manual_seed(0)
    network = _Small()
    directions = {axis: {"weight": torch.randn(10, 64) / 8} for axis in ("alpha", "beta")}
    objective = objective_of(network, digits, directions, compiles=True, fuses=False)
    assert objective.forward == "compiled"
    for cell in (*CELLS, CELLS[0]):
        expected = naive(network, digits, directions, cell)
        assert objective.evaluate(cell) == pytest.approx(expected, rel=1e-5)


def test_a_network_that_differentiates_is_not_compiled():
    """The message says what to leave out."""
    with pytest.raises(
        UsageError, match=r"compile: the network differentiates .*leave compile out"
    ):
        compiled(_Small(), torch.float32, torch.zeros(2, 64), Manner(records=True))


def test_a_compiler_that_fails_is_named(monkeypatch):
    """Whatever it raises, on the first batch."""

    def broken(model, **_):
        def run(*_):
            raise RuntimeError("no C++ compiler found")

        return run

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(EnvironmentUnfit, match=r"no C\+\+ compiler found.*leave it out"):
        compiled(_Small(), torch.float32, torch.zeros(2, 64))


def test_a_pass_in_row_major_order_is_that_of_the_network():
    """Filters and images are copied into that order, and again after the network has moved."""
    torch.manual_seed(0)
    last = torch.channels_last
    network = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4)).eval()
    network.to(memory_format=last)
    x = torch.randn(2, 3, 8, 8).contiguous(memory_format=last)
    forward = in_row_major(network, torch.float32)
    orders = []
    forward._model.register_forward_pre_hook(lambda _, given: orders.append(given[0].stride()))
    with torch.no_grad():
        for _ in range(2):
            for tensor in (*network.parameters(), network[1].running_mean):
                tensor.normal_()
            forward.sync()
            assert torch.allclose(forward(x), network(x), rtol=1e-5, atol=1e-6)
    assert set(orders) == {(192, 64, 8, 1)}
    assert forward._model[0].weight.stride() == (27, 9, 3, 1)
