"""Residual networks: their sizes, names and outputs are the published ones."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tests.models.conftest import names
from tests.support.networks import build


@pytest.mark.parametrize(("depth", "blocks"), [(20, 3), (32, 5), (44, 7), (56, 9), (110, 18)])
@pytest.mark.parametrize("factor", [1, 2])
def test_residual_networks_count_as_the_formula_says(depth, blocks, factor):
    """3x3 convolutions, batch norms, two 1x1 shortcuts and the linear layer add up."""
    width, total = 16 * factor, 0
    total += 3 * width * 9 + 2 * width
    inputs = width
    for planes in (width, 2 * width, 4 * width):
        total += inputs * planes * 9 + (2 * blocks - 1) * planes * planes * 9
        total += 2 * blocks * 2 * planes
        if inputs != planes:
            total += inputs * planes + 2 * planes
        inputs = planes
    total += inputs * 10 + 10
    with torch.device("meta"):
        network = build(f"resnet{depth}", width=width)
    assert sum(p.numel() for p in network.parameters()) == total


def test_names_of_residual_networks_are_the_published_ones():
    """Checkpoints trained elsewhere load by name."""
    found = names(build("resnet20"))
    assert found[:6] == [
        "conv1.weight",
        *(f"bn1.{n}" for n in ("weight", "bias", "running_mean", "running_var")),
        "layer1.0.conv1.weight",
    ]
    assert "layer2.0.shortcut.0.weight" in found
    assert "layer2.0.shortcut.1.running_var" in found
    assert not any(n.startswith(("layer1.0.shortcut", "layer2.1.shortcut")) for n in found)
    assert found[-2:] == ["linear.weight", "linear.bias"]
    assert not any("shortcut" in n for n in names(build("resnet20_noshort")))


def test_without_shortcuts_a_block_does_not_add_its_input():
    """With all convolutions at zero the blocks pass nothing on, with shortcuts they do."""
    x = torch.rand(2, 3, 8, 8)
    for arch, passes in (("resnet20", True), ("resnet20_noshort", False)):
        network = build(arch, size=(8, 8)).eval()
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if name.startswith("layer") and "shortcut" not in name and "conv" in name:
                    parameter.zero_()
            differs = not torch.allclose(network(x)[0], network(x)[1])
        assert differs is passes


def _published(state, x, blocks, kind, shortcut):
    """Return the logits as the code published with Li et al. (2018) computes them from a state."""

    def conv(x, name, stride=1, padding=0):
        return F.conv2d(x, state[f"{name}.weight"], stride=stride, padding=padding)

    def norm(x, name):
        mean, var, weight, bias = (
            state[f"{name}.{n}"] for n in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, var, weight, bias)

    out = F.relu(norm(conv(x, "conv1", padding=1), "bn1"))
    for stage, count in enumerate(blocks):
        for position in range(count):
            name, stride = f"layer{stage + 1}.{position}", 2 if stage and not position else 1
            own = out
            if kind == "basic":
                out = F.relu(norm(conv(own, f"{name}.conv1", stride, 1), f"{name}.bn1"))
                out = norm(conv(out, f"{name}.conv2", 1, 1), f"{name}.bn2")
            else:
                out = F.relu(norm(conv(own, f"{name}.conv1"), f"{name}.bn1"))
                out = F.relu(norm(conv(out, f"{name}.conv2", stride, 1), f"{name}.bn2"))
                out = norm(conv(out, f"{name}.conv3"), f"{name}.bn3")
            if shortcut and f"{name}.shortcut.0.weight" in state:
                own = norm(conv(own, f"{name}.shortcut.0", stride), f"{name}.shortcut.1")
            if shortcut:
                out = out + own
            if shortcut or kind == "basic":  # without shortcut a bottleneck ends at its norm
                out = F.relu(out)
    pooled = F.avg_pool2d(out, out.shape[-1]).flatten(1)
    return F.linear(pooled, state["linear.weight"], state["linear.bias"])


@pytest.mark.parametrize(
    ("arch", "blocks", "kind"),
    [
        ("resnet20", (3, 3, 3), "basic"),
        ("resnet20_noshort", (3, 3, 3), "basic"),
        ("resnet18", (2, 2, 2, 2), "basic"),
        ("resnet50", (3, 4, 6, 3), "bottleneck"),
        ("resnet50_noshort", (3, 4, 6, 3), "bottleneck"),
    ],
)
def test_residual_networks_compute_what_the_published_ones_do(arch, blocks, kind):
    """The same logits as a forward pass written out over the state dict, in float64."""
    torch.manual_seed(0)
    network = build(arch, size=(32, 32), width=4).double().eval()
    for name, tensor in network.state_dict().items():
        if name.endswith(("running_mean", "bias")):
            tensor.normal_()
        elif name.endswith("running_var") or ("bn" in name and name.endswith("weight")):
            tensor.uniform_(0.5, 1.5)
    x = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        expected = _published(network.state_dict(), x, blocks, kind, not arch.endswith("_noshort"))
        torch.testing.assert_close(network(x), expected, rtol=1e-10, atol=1e-12)
