"""The twin catches engines that are broken on purpose, in every road that losses take."""

from __future__ import annotations

import pytest
import torch

from lsengine import store
from lsengine.engine import Options, evaluate
from lsengine.errors import SurfaceError, UsageError
from lsengine.models.plain import MLP
from lsengine.objective import batched, device_state, displaced, fused_layers, vectors
from lsengine.objective.fused import FusedForward
from tests.support import own_networks
from tests.support.jobs import write_job

FNO = """
class FNO(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(4, 3, dtype=torch.cfloat))

    def forward(self, x):
        return torch.fft.irfft(torch.fft.rfft(x)[:, :4] @ self.w, n=3)


make = FNO
"""


def _refused(job, match):
    with pytest.raises(UsageError, match=match):
        evaluate([job], Options(progress="none"), world=None)
    assert not store.read(job.with_suffix(".h5")).counts()["done"]


def test_a_wrong_step_is_caught_away_from_the_centre(make_job, monkeypatch):
    """A displacement that is right at the centre alone is refused with where and by how much."""
    displace = vectors.Vectors.displace

    def twice(self, cell, out):
        displace(self, type(cell)(2 * cell.alpha, cell.beta, cell.repeat), out)

    monkeypatch.setattr(vectors.Vectors, "displace", twice)
    _refused(make_job(), r"at alpha=-?0\.\d+ beta=.* by a plain evaluation")


def test_a_wrong_fusion_is_caught(tmp_path, monkeypatch):
    """A fused layer that forgets its bias is told from the network's own mistakes."""
    job = write_job(tmp_path, model={"arch": "mlp", "args": {"hidden": [40]}, "checkpoint": "m.pt"})
    torch.save(MLP(features=6, classes=3, hidden=[40]).state_dict(), tmp_path / "m.pt")
    sync = fused_layers.FusedLayer.sync

    def without_bias(self):
        sync(self)
        self.bias.zero_()

    monkeypatch.setattr(fused_layers.FusedLayer, "sync", without_bias)
    monkeypatch.setattr(displaced, "fused", _unchecked)
    _refused(job.rename(tmp_path / "job.yaml"), "without fused layers they agree")


def _unchecked(model, dtype, sample, *, tf32):
    return FusedForward(model, dtype, "float32")


def test_wrong_values_of_a_group_are_caught(make_job, monkeypatch):
    """Cells that are evaluated together are compared on that road."""
    linear = batched._linear
    monkeypatch.setattr(batched, "_linear", lambda w, b, h: linear(w, None, h))
    _refused(make_job(precision="float32", cells_per_pass="auto"), "plain evaluation")


def test_a_dropped_imaginary_part_is_caught(tmp_path, monkeypatch):
    """A cast that makes complex numbers real ones is refused."""
    x, y = torch.randn(30, 8).numpy(), torch.randn(30, 3).numpy()
    job = own_networks.write(tmp_path, FNO, x, y, loss="mse")

    def dropping(model, dtype):
        for parameter in model.parameters():
            parameter.data = torch.complex(parameter.real, torch.zeros_like(parameter.real))
        return model

    monkeypatch.setattr("lsengine.objective.objective.cast", dropping)
    _refused(job, "plain evaluation")


def test_a_wrong_layout_is_caught(tmp_path, monkeypatch):
    """Filters whose axes are exchanged are refused."""
    x, y = torch.randn(12, 3, 6, 6).numpy(), torch.arange(12).numpy() % 2
    code = "def make(): return nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(32, 2))"
    job = own_networks.write(tmp_path, code, x, y)
    views = device_state.FlatParameters.views

    def exchanged(self, vector):
        return {n: v.transpose(2, 3) if v.ndim == 4 else v for n, v in views(self, vector).items()}

    monkeypatch.setattr(device_state.FlatParameters, "views", exchanged)
    _refused(job, "plain evaluation")


def test_a_resume_with_another_network_is_refused(tmp_path):
    """What the file says of the twin's losses is compared with those of today."""
    code = """
import os


class Outside(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.factor = nn.Linear(6, 3), float(os.environ.get("FACTOR", "1"))

    def forward(self, x):
        return self.factor * self.a(x)


make = Outside
"""
    x, y = torch.randn(30, 6).numpy(), torch.arange(30).numpy() % 3
    job = own_networks.write(tmp_path, code, x, y)
    options = Options(progress="none", cell_limit=1)
    assert evaluate([job], options, world=None) in (0, 75)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FACTOR", "2")
        with pytest.raises(SurfaceError, match="when the surface was begun"):
            evaluate([job], Options(progress="none"), world=None)
    assert evaluate([job], Options(progress="none"), world=None) == 0
