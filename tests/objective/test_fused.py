"""Fused forward passes are the same functions, for every network of the zoo."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from lsengine import models
from lsengine.data import Dataset, Split
from lsengine.errors import EnvironmentUnfit
from lsengine.job.schema import ModelSpec
from lsengine.log import NOTICE
from lsengine.objective import EvaluationSettings, Objective, fused
from lsengine.objective.builtin import cross_entropy

ZOO = ("vgg9", "resnet18", "resnet50", "resnet20", "resnet20_noshort", "wrn56_2", "densenet121")


def _network(arch, size=8):
    """Return a network whose normalisations are far from the identity."""
    torch.manual_seed(1)
    model = models.build(
        ModelSpec(arch=arch), channels=3, classes=10, size=(size, size), job_folder=Path()
    )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def _inputs(count=16, size=8):
    inputs = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(2))
    return inputs.to(memory_format=torch.channels_last)


@pytest.mark.parametrize("arch", ZOO)
def test_a_fused_network_is_the_network(arch):
    """Against float64, folding is as exact as the network's own float32; nothing is unfused."""
    model, x = _network(arch), _inputs()
    with torch.inference_mode():
        network = fused.fused(model, torch.float32)
        assert network.kind == "fused"
        found, own = network(x).double(), model(x).double()
        exact = model.double()(x.double())
    scale = exact.abs().max()
    assert (found - exact).abs().max() <= 2 * (own - exact).abs().max() + 1e-6 * scale


def test_refreshing_takes_up_weights_and_running_statistics():
    """After any change of the network's numbers, a refresh makes the two the same again."""
    model, x = _network("resnet20"), _inputs()
    with torch.inference_mode():
        network = fused.fused(model, torch.float32)
        before = network(x)
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.mul_(1.1)
        torch.testing.assert_close(network(x), before, rtol=0, atol=0)  # not yet
        network.sync()
        torch.testing.assert_close(network(x), model(x), rtol=1e-5, atol=1e-5)
        assert not torch.allclose(network(x), before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("arch", ["vgg9", "resnet18", "resnet20", "densenet121"])
def test_lower_precisions_are_the_network_rounded(arch, dtype):
    """Half of the bits, and an error of about their size."""
    model, x = _network(arch), _inputs()
    with torch.inference_mode():
        found, own = fused.fused(model, dtype)(x.to(dtype)), model(x)
    assert found.dtype == dtype
    assert (found.float() - own).abs().max() < 0.03 * own.abs().max()


class _Block(nn.Module):
    """Residual blocks whose summand is somebody's input, or still needed, or not a layer's."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.layers = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(4))

    def forward(self, x):
        one, two, three, last = self.layers
        a = one(x)
        if self.kind == "used up":
            return last(torch.relu(two(three(a)) + a))
        if self.kind == "needed later":
            return torch.relu(two(three(a)) + a) + a
        if self.kind == "needed by a later layer":
            total = two(three(a)) + a
            return total + last(a)
        if self.kind == "seen by a view":
            seen = a.flatten(1)
            return last(two(three(a)) + a).flatten(1) + seen
        if self.kind == "convolved itself":
            return last(two(a) + a)
        if self.kind == "summed twice":
            return last(three(two(a) + a) + a)
        return last(two(a) + x)  # the images themselves


KINDS = {
    "used up": 1,
    "needed later": 0,
    "needed by a later layer": 1,  # the last sum, not the first
    "seen by a view": 0,
    "convolved itself": 0,
    "summed twice": 1,
    "images": 0,
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_sum_overwrites_only_what_nobody_needs(kind):
    """Two passes in a row give the network's own values, and the images stay what they were."""
    torch.manual_seed(3)
    model = _Block(kind).eval().requires_grad_(False).to(memory_format=torch.channels_last)
    x = torch.randn(4, 8, 6, 6).to(memory_format=torch.channels_last)
    kept = x.clone()
    with torch.inference_mode():
        network = fused.fused(model, torch.float32)
        for _ in range(2):
            torch.testing.assert_close(network(x), model(x), rtol=1e-5, atol=1e-5)
    assert torch.equal(x, kept)
    assert sum(getattr(layer, "into_other", False) for layer in network._layers) == KINDS[kind]


def test_shared_weights_are_not_folded_away():
    """A weight that two layers use, each with a normalisation of its own, has no one scale."""

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.norms = nn.Linear(4, 4), nn.ModuleList(nn.BatchNorm1d(4) for _ in "ab")

        def forward(self, x):
            return self.norms[1](self.one(self.norms[0](self.one(x))))

    twice, once = Twice().eval(), nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).eval()
    once[1].running_var.fill_(4.0)
    with torch.inference_mode():
        assert (
            fused.fused(twice, torch.float32).fold_scales({"one.weight": twice.one.weight}) is None
        )
        scales = fused.fused(once, torch.float32).fold_scales({"0.weight": once[0].weight})
    torch.testing.assert_close(scales["0.weight"], torch.full((4,), 0.5), rtol=1e-4, atol=0)


def test_residual_networks_sum_in_place():
    """Where a block keeps its shape, its sum takes no memory of its own."""
    with torch.inference_mode():
        network = fused.fused(_network("resnet20"), torch.float32)
    assert sum(getattr(layer, "into_other", False) for layer in network._layers) == 9


def test_what_cannot_be_traced_runs_as_it_is(caplog):
    """A network with a branch on its data is run unfused, which every rank says, and why."""

    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x):
            return self.layer(x) if x.sum() > 0 else -self.layer(x)

    model, x = Branching().eval().requires_grad_(False), torch.randn(5, 4)
    with torch.inference_mode(), caplog.at_level(NOTICE, "lsengine"):
        torch.testing.assert_close(fused.fused(model, torch.float32)(x), model(x))
        low = fused.fused(model, torch.bfloat16)
        model.layer.weight.mul_(2)
        low.sync()
        torch.testing.assert_close(low(x.bfloat16()).float(), model(x), rtol=0.05, atol=0.05)
    assert "running without fused layers, which is slower: TraceError: " in caplog.text


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (
            lambda size: nn.modules.linear.NonDynamicallyQuantizableLinear(size, size),
            "a NonDynamicallyQuantizableLinear, which may be more than its base class",
        ),
        (partial(nn.BatchNorm1d, track_running_stats=False), "without running statistics"),
        (nn.LayerNorm, "parameters outside of its layers"),
    ],
)
def test_a_layer_that_is_not_known_leaves_the_network_as_it_is(caplog, layer, reason):
    """A class that inherits, batch statistics, another normalisation: each with its reason."""
    model = nn.Sequential(layer(4), nn.Linear(4, 4)).eval().requires_grad_(False)
    x = torch.randn(5, 4)
    with torch.inference_mode(), caplog.at_level(NOTICE, "lsengine"):
        network = fused.fused(model, torch.float32)
        assert network.kind == "eager"
        assert torch.equal(network(x), model(x))
    assert reason in caplog.text


def test_memory_that_ends_while_layers_are_fused_is_no_reason_to_go_on_without(monkeypatch):
    """Another worker might have room, and its cells other last bits; so the run ends."""

    def exhausted(*_):
        raise torch.OutOfMemoryError("made to fail: out of memory")

    model = nn.Sequential(nn.Linear(4, 4)).eval().requires_grad_(False)
    with monkeypatch.context() as patch:
        patch.setattr(torch.fx, "symbolic_trace", exhausted)
        with pytest.raises(torch.OutOfMemoryError):
            fused.fused(model, torch.float32)
    monkeypatch.setattr(fused.FusedForward, "sync", exhausted)
    with pytest.raises(torch.OutOfMemoryError):
        fused.fused(model, torch.float32, torch.randn(2, 4))
    data = Dataset(
        splits={"train": Split(torch.randn(4, 4), torch.arange(4))}, mean=None, std=None, classes=4
    )
    settings = EvaluationSettings(device=torch.device("cpu"), precision="float32", batch_size=4)
    with pytest.raises(EnvironmentUnfit, match="no room for the network's folded weights"):
        Objective(model, data, cross_entropy, {}, settings)


def test_sums_in_place_keep_their_effects():
    """What tracing gets wrong is found out by a sample, and the network runs as it is."""

    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = (nn.Conv2d(3, 3, 1) for _ in range(2))

        def forward(self, x):
            start = self.first(x)
            kept = start
            start += self.second(x)
            return torch.relu(kept) + start

    model, x = InPlace().eval().requires_grad_(False), _inputs()
    with torch.inference_mode():
        expected = model(x.clone())
        network = fused.fused(model, torch.float32, x[:2].clone())
        torch.testing.assert_close(network(x), expected)
