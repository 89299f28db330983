"""Networks without shortcuts."""

from __future__ import annotations

from tests.models.conftest import names
from tests.support.networks import build


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
