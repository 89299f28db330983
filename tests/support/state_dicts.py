"""Checkpoints as people have them: how their state dicts are wrapped, and what must come out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lsengine.errors import UsageError
from lsengine.job.schema import ModelSpec
from lsengine.models import checkpoint

KEY = "model.checkpoint"


def network(width=4, classes=2):
    """A small network with a batch norm, and names of two parts and three."""
    body = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width))
    model = nn.Module()
    model.body, model.head = body, nn.Linear(width, classes)
    return model


class Tied(nn.Module):
    """Two names of one tensor."""

    def __init__(self):
        super().__init__()
        self.e, self.head = nn.Linear(3, 3), nn.Linear(3, 3)
        self.head.weight = self.e.weight


class Settings:
    """An object of a class that torch does not know."""

    def __init__(self):
        self.width, self.inner = 8, {"a": [1, 2]}


class Attributes(dict):
    """A dict of a class that torch does not know, as Lightning's hyper-parameters are."""


def prefixed(state, prefix):
    """Put a prefix before every name."""
    return {prefix + name: tensor for name, tensor in state.items()}


def other(state, by=1.0):
    """Return the same with other numbers."""
    return {n: t + by if t.is_floating_point() else t for n, t in state.items()}


def shadow(state):
    """What an optimizer keeps under the numbers of parameters."""
    return {"state": {i: {"step": torch.tensor(5.0), "exp_avg": t} for i, t in enumerate(state)}}


def write(path, content):
    """Save, read back and return what fits the network."""
    torch.save(content, path)
    return path


def taken(path, model=None, **keys):
    """Return the model with the checkpoint's numbers."""
    model = model or network()
    spec = ModelSpec(arch="net:make", **keys)
    checkpoint.fit(model, checkpoint.load(path, key=KEY, spec=spec), key=KEY)
    return model


def assert_same(model, state):
    """All numbers are those of the state dict."""
    found = model.state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


def refused(path, says, model=None, **keys):
    """A checkpoint is refused with words, and the model stays as it was."""
    model = model or network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UsageError, match=says):
        taken(path, model, **keys)
    assert_same(model, before)
