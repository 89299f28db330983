"""The zoo, and torchvision's networks."""

from __future__ import annotations

import pytest
import torch

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


def test_parameter_counts_are_the_published_ones():
    """Networks trained by others have the same numbers of parameters."""
    zoo = dict(models.zoo())
    assert {name: zoo[name] for name in PUBLISHED} == PUBLISHED


def test_the_zoo_is_what_jobs_may_name():
    """Every name that a job is allowed builds, in the order of the list."""
    assert tuple(name for name, _ in models.zoo()) == schema.ARCHITECTURES


@pytest.mark.parametrize("arch", [a for a in schema.ARCHITECTURES if "_8" not in a and a != "gpt"])
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
        ("mlp", {"hidden": [2**62]}, "model.args: mlp"),
        ("mlp", {"hidden": [10**30]}, "model.args: mlp"),
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
