"""The zoo, and torchvision's networks."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from lsengine import models
from lsengine.errors import UsageError
from lsengine.job import schema
from tests.support.networks import build

PUBLISHED = {
    "vgg9": 2_789_706,
    "resnet20": 272_474,
    "resnet20_noshort": 269_722,
    "resnet56": 855_770,
    "resnet56_noshort": 853_018,
    "resnet110": 1_730_714,
    "resnet110_noshort": 1_727_962,
    "wrn56_2": 3_412_394,
    "wrn56_4": 13_628_234,
    "wrn56_8": 54_470_282,
    "densenet121": 6_956_298,
}


def names(model):
    """All names of the state dict, counters left out."""
    return [n for n in model.state_dict() if not n.endswith("num_batches_tracked")]


def test_parameter_counts_are_the_published_ones():
    """Networks trained by others have the same numbers of parameters."""
    zoo = dict(models.zoo())
    assert {name: zoo[name] for name in PUBLISHED} == PUBLISHED


def test_the_zoo_is_what_jobs_may_name():
    """Every name that a job is allowed builds, in the order of the list."""
    assert tuple(name for name, _ in models.zoo()) == schema.ARCHITECTURES


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


@pytest.mark.parametrize("arch", [a for a in schema.ARCHITECTURES if "_8" not in a])
def test_every_network_takes_small_grey_images(arch):
    """8x8 pixels, one channel and three classes suit the whole zoo."""
    with torch.device("meta"):
        network = build(arch, channels=1, classes=3, size=(8, 8))
        assert network(torch.empty(2, 1, 8, 8)).shape == (2, 3)


@pytest.mark.parametrize("arch", ["resnet20", "resnet50", "vgg16", "densenet121", "mlp"])
@pytest.mark.parametrize("size", [(9, 13), (40, 64)])
def test_images_need_neither_be_square_nor_a_power_of_two(arch, size):
    """Odd and oblong images pass."""
    with torch.device("meta"):
        network = build(arch, size=size)
        assert network(torch.empty(2, 3, *size)).shape == (2, 10)


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


def test_names_of_vgg_are_the_published_ones():
    """Seven convolutions with batch norm, then fc and classifier, by position."""
    network = build("vgg9")
    kinds = [type(m).__name__ for m in network.features]
    assert kinds.count("Conv2d") == kinds.count("BatchNorm2d") == 7
    assert [i for i, k in enumerate(kinds) if k == "MaxPool2d"] == [6, 13, 23]
    assert "features.20.bias" in names(network)
    assert network.state_dict()["fc.0.weight"].shape == (256, 256 * 4 * 4)
    assert names(network)[-2:] == ["classifier.weight", "classifier.bias"]


def test_small_images_do_not_rename_the_layers_of_vgg():
    """A pooling layer that is left out keeps its place."""
    assert names(build("vgg19", size=(8, 8))) == names(build("vgg19", size=(32, 32)))


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


def test_arguments_win_over_the_data():
    """Classes, channels and width of the job's args are used."""
    network = build("resnet20", channels=1, classes=100, width=4)
    assert network.conv1.weight.shape == (4, 1, 3, 3)
    assert network.linear.weight.shape == (100, 16)
    assert [*build("mlp", hidden=[5]).layers[0].weight.shape] == [5, 3 * 32 * 32]
    assert build("mlp", channels=7, size=None, hidden=[]).linear.weight.shape == (10, 7)


@pytest.mark.parametrize(
    ("arch", "args", "said"),
    [
        ("resnet20", {"widht": 8}, 'model.args.widht.*did you mean "width"'),
        ("vgg9", {"width": 8}, "model.args.width.*allowed: channels, classes"),
        ("resnet20", {"width": 0}, "model.args.width.*at least 1, got 0"),
        ("mlp", {"hidden": 3}, "model.args.hidden.*list"),
        ("mlp", {"hidden": [3, True]}, "model.args.hidden.*integers"),
        ("resnet21", {}, 'model.arch: got "resnet21".*did you mean "resnet'),
        ("resnet2o", {}, 'did you mean "resnet20"'),
        ("ResNet-110", {}, 'did you mean "resnet110"'),
        ("wrn-56-2-noshort", {}, 'did you mean "wrn56_2_noshort"'),
        ("vgg", {}, 'did you mean "vgg9"'),
        (":x", {}, "module:name"),
        ("no_such_module:make", {}, 'model.arch: no module "no_such_module"'),
        ("math:sqroot", {}, 'model.arch: no "sqroot" in .*math.*; did you mean "sqrt"'),
        ("math:pi", {}, "model.arch: math:pi is float"),
        ("math:sqrt", {"x": 4}, "model.arch: math:sqrt.*failed: TypeError"),
        ("builtins:dict", {}, "returned dict"),
    ],
)
def test_what_is_wrong_is_named(arch, args, said):
    """Each mistake names its key, what was found and what is allowed."""
    with pytest.raises(UsageError, match=said):
        build(arch, **args)


def test_images_are_asked_for():
    """Feature vectors and tiny images are refused by convolutional networks."""
    with pytest.raises(UsageError, match=r"needs images.*7 features"):
        build("resnet20", channels=7, size=None)
    with pytest.raises(UsageError, match="at least 8x8"):
        build("vgg9", size=(8, 7))


def test_torchvision_mistakes_are_named():
    """Unknown networks and arguments are refused with a hint."""
    with pytest.raises(UsageError, match=r'"resnet19".*did you mean "resnet1'):
        build("torchvision:resnet19")
    with pytest.raises(UsageError, match=r"model\.args.*nonsense"):
        build("torchvision:resnet18", nonsense=1)
