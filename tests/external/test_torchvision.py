"""Torchvision, also where it does not fit its torch."""

from __future__ import annotations

import sys

import pytest

from lsengine.errors import EnvironmentUnfit
from lsengine.external import torchvision
from tests.support.networks import build


def test_torchvision_networks_take_the_classes_of_the_data():
    """Its networks work, also where its operators do not fit this torch."""
    network = build("torchvision:resnet18", classes=7)
    assert network.fc.weight.shape == (7, 512)
    assert build("torchvision:resnet18", num_classes=4).fc.weight.shape == (4, 512)


def test_a_missing_torchvision_is_no_bug(monkeypatch):
    """The environment is unfit, and the message says what to install."""
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(EnvironmentUnfit, match="install the one that goes with torch"):
        torchvision.torchvision()


def test_an_import_that_fails_twice_is_the_environments_fault(monkeypatch):
    """With the schemas declared, too: the message has torchvision's own words."""
    tries = []

    def refuse(name):
        tries.append(name)
        raise RuntimeError("operator torchvision::other does not exist")

    monkeypatch.setattr(torchvision.importlib, "import_module", refuse)
    with pytest.raises(EnvironmentUnfit, match=r"does not fit torch .*torchvision::other"):
        torchvision.torchvision()
    assert tries == ["torchvision"] * 2
