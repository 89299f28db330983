"""Networks of the zoo are found again by the names and shapes of their parameters."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lsengine.job.networks import NETWORKS
from lsengine.job.schema import ModelSpec
from lsengine.models import build
from lsengine.models.guessing import guess

CASES = [
    ("mlp", {"hidden": [5, 7]}, (1, 8)),
    ("mlp", {"hidden": []}, (3, 32)),
    ("vgg9", {}, (3, 32)),
    ("resnet20_noshort", {}, (1, 8)),
    ("resnet20", {"width": 3}, (1, 8)),
    ("wrn56_2", {}, (3, 32)),
    ("resnet50", {}, (3, 32)),
    ("densenet121", {"growth": 4}, (3, 32)),
    ("vit", {"depth": 2, "width": 12, "patch": 2}, (1, 8)),
    ("gpt", {"depth": 1, "width": 8, "norm": False}, None),
    ("gpt", {"depth": 3, "width": 8, "positions": "learned"}, None),
]


def _shapes(arch, args, channels, classes, size):
    with torch.device("meta"):
        network = build(
            ModelSpec(arch=arch, args=args),
            channels=channels,
            classes=classes,
            size=size,
            job_folder=Path(),
        )
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize("prefix", ["", "module.net."])
@pytest.mark.parametrize(("arch", "args", "images"), CASES, ids=lambda v: str(v)[:20])
def test_a_network_is_found_with_its_arguments(arch, args, images, prefix):
    """Channels, classes and arguments are those that it was built with, whatever wraps it."""
    channels, side = images or (6, None)
    size = None if side is None else (side, side)
    shapes = _shapes(arch, args, channels, 11, size)
    found = guess({prefix + name: shape for name, shape in shapes.items()})
    assert (found.arch, found.args, found.classes) == (arch, args, 11)
    assert found.channels == (channels if images or "positions" in args else 1)
    assert found.size in (None, size)


def test_what_is_not_of_the_zoo_is_not_guessed():
    """One name or shape that is another is enough."""
    shapes = _shapes("resnet20", {}, 1, 10, (8, 8))
    assert guess(shapes).arch == "resnet20"
    assert guess(shapes | {"extra.weight": (3, 3)}) is None
    assert guess(shapes | {"layer2.0.conv1.weight": (32, 16, 5, 5)}) is None
    assert guess({}) is None


@pytest.mark.parametrize("shape", [(), (3,), (3, 3), (3, 3, 3), (0, 0, 0, 0), (2,) * 6])
@pytest.mark.parametrize(
    "names",
    [
        ("linear.weight", "layers.0.weight"),
        ("features.0.weight", "classifier.weight"),
        ("conv1.weight", "linear.weight", "layer1.0.conv1.weight"),
        ("patches.weight", "positions.weight", "head.weight"),
        ("embedding.weight", "positions.weight", "blocks.0.x"),
    ],
)
def test_names_of_a_network_with_any_shapes_are_no_network(names, shape):
    """A file may have a network's names, and tensors of any number of axes."""
    assert guess(dict.fromkeys(names, shape)) is None


@pytest.mark.parametrize(
    "names",
    [
        [f"part{i}.conv1.weight" for i in range(20_000)],
        ["embedding.weight", "positions.weight", *(f"blocks.{i}.x" for i in range(20_000))],
    ],
    ids=["prefixes", "blocks"],
)
def test_a_file_of_many_names_builds_no_network(names, monkeypatch):
    """Every beginning of a name, and every number of blocks, could be tried for hours."""
    built = []
    monkeypatch.setattr("lsengine.models.guessing.build", lambda *a, **k: built.append(a))
    assert guess(dict.fromkeys(names, (8, 8))) is None
    assert not built


def test_every_family_is_known():
    """A new family of networks has to be found, too."""
    assert {entry.family for entry in NETWORKS.values()} == {
        NETWORKS[arch].family for arch, *_ in CASES
    }
