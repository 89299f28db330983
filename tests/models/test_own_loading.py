"""Networks that load state dicts in a way of their own get what their own way makes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lsengine.errors import UsageError
from lsengine.models import checkpoint
from tests.support.state_dicts import prefixed, taken, write


class Scaled(nn.Module):
    """Keeps a number beside its parameters."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.weight, self.scale = nn.Parameter(torch.ones(2)), scale

    def get_extra_state(self):
        """Return the number."""
        return torch.tensor(self.scale)

    def set_extra_state(self, state):
        """Take the number."""
        self.scale = float(state)


class Renamed(nn.Linear):
    """Knows files of its earlier self, with another name and layout."""

    def _load_from_state_dict(self, state, prefix, *rest):
        if f"{prefix}kernel" in state:
            state[f"{prefix}weight"] = state.pop(f"{prefix}kernel").T
        super()._load_from_state_dict(state, prefix, *rest)


class Strict(nn.Linear):
    """Refuses what is not finite."""

    def _load_from_state_dict(self, state, prefix, *rest):
        if not state[f"{prefix}weight"].isfinite().all():
            raise ValueError("not finite")
        super()._load_from_state_dict(state, prefix, *rest)


def test_extra_state_is_taken_up(tmp_path):
    """What a module keeps besides tensors is part of the network."""
    trained = nn.Sequential(Scaled(3.0))
    trained[0].weight.data.fill_(0.5)
    path = write(tmp_path / "a.pt", {"state_dict": prefixed(trained.state_dict(), "model.")})
    model = taken(path, nn.Sequential(Scaled()))
    assert model[0].scale == 3.0
    assert model[0].weight.tolist() == [0.5, 0.5]


def test_extra_state_that_cannot_move_is_refused(tmp_path):
    """The other end of a direction must have that of the centre."""
    model = nn.Sequential(Scaled(1.0))
    for scale in (1.0, 2.0):
        path = write(tmp_path / f"{scale}.pt", nn.Sequential(Scaled(scale)).state_dict())
        other = checkpoint.load(path)
        if scale == 1.0:
            assert "0.weight" in checkpoint.fitted(model, other, key="k", needed=["0.weight"])
            continue
        with pytest.raises(UsageError, match=r"0\._extra_state differs from the centre's"):
            checkpoint.fitted(model, other, key="k", needed=["0.weight"])


def test_old_names_are_changed_by_the_network(tmp_path):
    """As its own `load_state_dict` does; the model is changed only by `fit`."""
    kernel, bias = torch.randn(3, 2), torch.randn(2)
    path = write(tmp_path / "a.pt", {"m": {"0.kernel": kernel, "0.bias": bias}})
    model = nn.Sequential(Renamed(3, 2))
    before = model[0].weight.detach().clone()
    found = checkpoint.fitted(model, checkpoint.load(path), key="k")
    assert torch.equal(model[0].weight, before)
    assert torch.equal(found["0.weight"], kernel.T)
    assert torch.equal(taken(path, model)[0].weight, kernel.T)


def test_what_the_network_refuses_is_refused(tmp_path):
    """With its own reason."""
    state = {"0.weight": torch.full((2, 3), torch.nan), "0.bias": torch.ones(2)}
    path = write(tmp_path / "a.pt", state)
    with pytest.raises(UsageError, match="own way of loading: ValueError: not finite"):
        taken(path, nn.Sequential(Strict(3, 2)))


def test_new_weight_normalisation_reads_the_old(tmp_path):
    """Torch's own hook turns the names of the old one into those of the new one."""
    with pytest.warns(FutureWarning):
        old = nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 2)))
    new = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)))
    taken(write(tmp_path / "a.pt", {"state_dict": old.state_dict()}), new)
    x = torch.randn(5, 3)
    assert torch.allclose(new(x), old(x))
