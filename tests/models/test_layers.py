"""Which parameters belong to normalisations, and whether a network takes the data."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lsengine import models
from lsengine.errors import UsageError
from tests.support.networks import build


class SimpleNorm(nn.Module):
    """A third party's normalisation."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(3))


class PreNorm(nn.Module):
    """A wrapper named like a normalisation."""

    def __init__(self):
        super().__init__()
        self.norm, self.body = nn.LayerNorm(3), nn.Linear(3, 3)


def test_normalisation_parameters_are_those_of_the_layers():
    """Scales and shifts of all kinds of normalisation, and nothing they wrap."""
    network = nn.Sequential(
        *(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.RMSNorm(3)),
        *(nn.InstanceNorm2d(4, affine=True), SimpleNorm(), PreNorm(), nn.Linear(3, 2)),
        nn.LocalResponseNorm(2),
    )
    expected = {f"{i}.{kind}" for i in (1, 2, 4) for kind in ("weight", "bias")}
    expected |= {"3.weight", "5.gain", "6.norm.weight", "6.norm.bias"}
    assert models.normalisation_parameters(network) == expected


def test_all_parameters_of_a_zoo_network_are_accounted_for():
    """What normalisation does not own are convolutions and the linear layer."""
    network = build("resnet20")
    others = set(dict(network.named_parameters())) - models.normalisation_parameters(network)
    assert all("conv" in n or "linear" in n or n.endswith("shortcut.0.weight") for n in others)


def test_running_statistics_are_found():
    """One mean and one variance for every batch norm."""
    network = build("resnet20")
    layers = [n for n, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)]
    expected = {f"{n}.{kind}" for n in layers for kind in ("running_mean", "running_var")}
    assert models.batch_norm_buffers(network) == expected


def test_a_network_that_does_not_take_the_data_is_found_out():
    """Wrong inputs and too few outputs are told apart, and nothing is changed by trying."""
    network = build("resnet20", size=(8, 8)).train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    models.check_model_accepts(network, torch.rand(4, 3, 8, 8))
    with pytest.raises(UsageError, match=r"refuses data of shape \[1, 8, 8\]"):
        models.check_model_accepts(network, torch.rand(4, 1, 8, 8))
    with pytest.raises(UsageError, match="expected one tensor"):
        models.check_model_accepts(nn.Flatten(0), torch.rand(4, 3))
    assert network.training
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
