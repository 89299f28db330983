"""The twin catches engines that are broken on purpose, in every road that losses take."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch

from lsengine.curvature import products
from lsengine.engine import Options, connect, evaluate, evaluator, spectrum, twin_check
from lsengine.engine.messages import Probe
from lsengine.engine.twin_check import _compare_metrics
from lsengine.errors import SurfaceError, UsageError
from lsengine.geometry import curve
from lsengine.models import resnet
from lsengine.models.layers import statistics_modules
from lsengine.models.plain import MLP
from lsengine.objective import batched, device_state, displaced, forward, fused_layers, vectors
from lsengine.objective.fused import FusedForward
from lsengine.surface.grid import Cell
from tests.support import own_networks
from tests.support.jobs import write_job
from tests.support.minima import write_connection

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
    assert not job.with_suffix(".h5").exists()


def test_a_wrong_step_is_caught_away_from_the_centre(make_job, monkeypatch):
    """A displacement that is right at the centre alone is refused with where and by how much."""
    displace = vectors.Vectors.displace

    def twice(self, cell, out):
        displace(self, type(cell)(2 * cell.alpha, cell.beta, cell.repeat), out)

    monkeypatch.setattr(vectors.Vectors, "displace", twice)
    _refused(
        make_job(), r"at alpha=-?0\.\d+ beta=.* by a plain evaluation.*its numbers there are oth"
    )


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
    _refused(
        make_job(precision="float32", cells_per_pass="auto"), "cells are evaluated at once; one by"
    )


def test_a_dropped_imaginary_part_is_caught(tmp_path, monkeypatch):
    """A cast that makes complex numbers real ones is refused."""
    x, y = torch.randn(30, 8).numpy(), torch.randn(30, 3).numpy()
    job = own_networks.write(tmp_path, FNO, x, y, loss="mse")

    def dropping(model, dtype):
        for parameter in model.parameters():
            parameter.data = torch.complex(parameter.real, torch.zeros_like(parameter.real))
        return model

    monkeypatch.setattr("lsengine.objective.objective.cast", dropping)
    _refused(job, "w is not the checkpoint's after the cast to torch.complex64")


def test_a_wrong_layout_is_caught(tmp_path, monkeypatch):
    """Filters whose axes are exchanged are refused."""
    x, y = torch.randn(12, 3, 6, 6).numpy(), torch.arange(12).numpy() % 2
    code = "def make(): return nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(32, 2))"
    job = own_networks.write(tmp_path, code, x, y)
    views = device_state.FlatParameters.views

    def exchanged(self, vector):
        return {n: v.transpose(2, 3) if v.ndim == 4 else v for n, v in views(self, vector).items()}

    monkeypatch.setattr(device_state.FlatParameters, "views", exchanged)
    _refused(job, "numbers of 0.weight are in another order")


def test_convolutions_that_misread_channels_last_are_told(tmp_path, monkeypatch):
    """Where only the order in memory matters, the order is named."""
    changes = {"model": {"arch": "resnet20", "checkpoint": "m.pt"}}
    network = resnet.cifar(20, channels=3, classes=10, width=16)
    torch.save(network.state_dict(), tmp_path / "m.pt")
    x, y = torch.randn(12, 3, 8, 8).numpy(), torch.arange(12).numpy() % 10
    job = own_networks.write(tmp_path, "make = nn.Identity", x, y, **changes)
    convolve = torch.nn.Conv2d._conv_forward

    def misread(self, x, weight, bias):
        rows = weight.permute(0, 2, 3, 1).reshape(weight.shape)  # as if it were row-major
        return convolve(self, x, weight if weight.is_contiguous() else rows, bias)

    monkeypatch.setattr(torch.nn.Conv2d, "_conv_forward", misread)
    _refused(job, "in row-major order they agree")


def test_a_pass_that_mixes_samples_is_told(make_job, monkeypatch):
    """Batches of one sample show it, and are named."""
    call = forward.ForwardPass.__call__
    monkeypatch.setattr(forward.ForwardPass, "__call__", lambda p, x: call(p, x).roll(1, 0))
    _refused(make_job(), "in batches of one sample they agree")


def test_a_pass_that_is_wrong_in_another_way_is_told_with_perhaps(make_job, monkeypatch):
    """What no trial has shown is not said to be so."""
    call = forward.ForwardPass.__call__
    monkeypatch.setattr(forward.ForwardPass, "__call__", lambda p, x: 2 * call(p, x))
    _refused(make_job(), "a network made anew agrees with the same parameters; perhaps")


def test_noise_in_a_pass_is_told(make_job, monkeypatch):
    """Losses that differ each time are named as such."""
    call = forward.ForwardPass.__call__
    noisy = lambda p, x: call(p, x) * (1 + torch.rand(()))  # noqa: E731
    monkeypatch.setattr(forward.ForwardPass, "__call__", noisy)
    _refused(make_job(), "they differ each time")


def test_recalibration_that_keeps_momentum_is_caught(make_job, monkeypatch):
    """Statistics that are a mixture with those of the checkpoint are named."""

    def keeping(model, forward, batches, tick=None):
        for layer in statistics_modules(model):
            layer.training = True
        forward(batches[0])
        model.eval()

    monkeypatch.setattr(displaced, "recalibrate", keeping)
    _refused(make_job(batch_norm="recalibrated"), "differ each time, as 1.running_mean does")


def test_statistics_of_another_batch_are_told(make_job, monkeypatch):
    """Statistics that are not those of the training samples are named."""
    measure = displaced.recalibrate
    monkeypatch.setattr(
        displaced, "recalibrate", lambda m, f, batches, tick: measure(m, f, [2 * batches[0]], tick)
    )
    _refused(make_job(batch_norm="recalibrated"), r"running_mean is not the statistic.*recalib")


def test_a_checkpoint_without_its_statistics_is_caught(tmp_path, monkeypatch):
    """A checkpoint of a trajectory is compared with a plain evaluation of the same file."""
    job = write_job(tmp_path, trajectory={"checkpoints": "early*.pt"})
    early = torch.load(tmp_path / "centre.pt")["state_dict"]
    moved = {n: t + 1 if "running" in n else t * 1.1 for n, t in early.items()}
    torch.save({"state_dict": moved, "epoch": 1}, tmp_path / "early1.pt")
    torch.save({"state_dict": early, "epoch": 2}, tmp_path / "early2.pt")
    filled_by = displaced.DisplacedNetwork.filled_by

    def without(self, fill):
        def parameters_alone(model):
            kept = {n: b.clone() for n, b in model.named_buffers()}
            fill(model)
            for name, buffer in model.named_buffers():
                buffer.copy_(kept[name])

        return filled_by(self, parameters_alone)

    monkeypatch.setattr(displaced.DisplacedNetwork, "filled_by", without)
    _refused(job, "at early1.pt.*its numbers there are others")


def test_a_checkpoint_is_compared_in_the_precision_of_the_weights(tmp_path):
    """A fast precision is no reason to refuse a trajectory."""
    job = write_job(tmp_path, trajectory={"checkpoints": "early*.pt"}, precision="bfloat16")
    early = torch.load(tmp_path / "centre.pt")["state_dict"]
    moved = {n: t * 1.1 if t.is_floating_point() else t for n, t in early.items()}
    torch.save({"state_dict": moved, "epoch": 1}, tmp_path / "early1.pt")
    torch.save({"state_dict": early, "epoch": 2}, tmp_path / "early2.pt")
    assert evaluate([job], Options(progress="none"), world=None) == 0


@pytest.mark.parametrize("command", ["spectrum", "directions"])
def test_products_that_drop_a_term_are_caught(tmp_path, monkeypatch, command):
    """Every way of multiplying with the Hessian is compared with differences of gradients."""
    directions = {"alpha": {"kind": "hessian"}}
    job = write_job(tmp_path, directions=directions, grid={"alpha": [-1, 1, 3]})
    product = products.Products.product

    def dropping(self, *args, **kwargs):
        result = product(self, *args, **kwargs)
        result[: len(result) // 2] = 0
        return result

    monkeypatch.setattr(products.Products, "product", dropping)
    runs = {
        "spectrum": lambda: spectrum.run(job, spectrum.Sizes(), world=None),
        "directions": lambda: evaluate([job], Options(progress="none"), world=None),
    }
    with pytest.raises(UsageError, match="agrees with differences of gradients"):
        runs[command]()


def test_a_wrong_centre_of_a_spectrum_is_caught(tmp_path, monkeypatch):
    """The spectrum's own evaluation of the centre is compared, too."""
    job = write_job(tmp_path)
    call = forward.ForwardPass.__call__
    monkeypatch.setattr(forward.ForwardPass, "__call__", lambda p, x: 2 * call(p, x))
    with pytest.raises(UsageError, match="by a plain evaluation"):
        spectrum.run(job, spectrum.Sizes(), world=None)


@pytest.mark.parametrize("broken", ["displacement", "coefficients"])
def test_a_curve_at_wrong_weights_is_caught(minima, connected, monkeypatch, broken):
    """Points of a curve are compared with those of its definition."""
    path = write_connection(minima, f"wrong-{broken}")
    shutil.copytree(minima / "done-curve", minima / f"wrong-{broken}-curve", dirs_exist_ok=True)
    if broken == "coefficients":
        monkeypatch.setattr(curve, "coefficients", lambda kind, bends, t: _straight(bends, t))
    else:
        displace = vectors.Vectors.displace
        moved = lambda s, c, out: displace(s, type(c)(c.alpha**2, c.beta, c.repeat), out)  # noqa: E731
        monkeypatch.setattr(vectors.Vectors, "displace", moved)
    with pytest.raises(UsageError, match="by a plain evaluation"):
        connect.run(path, Options(progress="none"), world=None)


def _straight(bends, t):
    return np.array([1 - t, *[0.0] * bends, t])


CLOSURE = """
def make():
    net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    first, second = net[0], net[2]
    net.forward = lambda x: second(torch.tanh(first(x)))
    return net
"""
PLAIN = "def make(): return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))"


def test_a_copy_that_looks_at_the_original_is_told(tmp_path):
    """A forward that keeps layers has no copy in another precision; the parameter is named."""
    x, y = torch.randn(30, 6).numpy(), torch.arange(30).numpy() % 3
    job = own_networks.write(tmp_path, CLOSURE, x, y, precision="bfloat16")
    _refused(job, "bfloat16 computes with 0.weight of the network that it is a copy of")


def test_hessians_of_a_forward_that_keeps_layers_are_those_of_the_network(tmp_path):
    """Such a network is made anew, since its copy would have no second derivatives."""
    x, y = torch.randn(30, 6).numpy(), torch.arange(30).numpy() % 3
    found = []
    for name, code in {"closure": CLOSURE, "plain": PLAIN}.items():
        job = own_networks.write(tmp_path / name, code, x, y)
        spectrum.run(job, spectrum.Sizes(vectors=2, trace=2, density=0), world=None)
        with h5py.File(tmp_path / name / "job-spectrum.h5") as file:
            found.append(file["eigenvalue"][:])
    assert (abs(found[1]) > 0.1).all()
    np.testing.assert_allclose(*found, rtol=1e-5)


OUTSIDE = """
import os


class Outside(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.factor = nn.Linear(6, 3), float(os.environ.get("FACTOR", "1"))

    def forward(self, x):
        return self.factor * self.a(x)


make = Outside
"""


@pytest.mark.parametrize(
    ("factor", "cause"),
    [("2", "rank 1 has another network than rank 0"), ("1", "made anew agrees")],
)
def test_another_network_on_a_rank_is_told_if_it_is_one(tmp_path, monkeypatch, factor, cause):
    """The rank is named where a network made there differs, and not where only the engine does."""
    x, y = torch.randn(30, 6).numpy(), torch.arange(30).numpy() % 3
    job = own_networks.write(tmp_path, OUTSIDE, x, y)

    def on_rank_1(job, objective, twin, **how):
        monkeypatch.setenv("FACTOR", factor)
        objective.model.factor = 2.0
        twin_check.compare_with_twin(job, objective, twin, **{**how, "rank": 1})

    monkeypatch.setattr(evaluator, "compare_with_twin", on_rank_1)
    _refused(job, cause)


def test_a_resume_with_another_network_is_refused(tmp_path):
    """What the file says of the twin's losses is compared with those of today."""
    x, y = torch.randn(30, 6).numpy(), torch.arange(30).numpy() % 3
    job = own_networks.write(tmp_path, OUTSIDE, x, y)
    options = Options(progress="none", cell_limit=1)
    assert evaluate([job], options, world=None) in (0, 75)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FACTOR", "2")
        with pytest.raises(SurfaceError, match="when the surface was begun"):
            evaluate([job], Options(progress="none"), world=None)
    assert evaluate([job], Options(progress="none"), world=None) == 0


@pytest.mark.parametrize(
    ("name", "wrong", "is_refused"),
    [
        ("smooth", 0, False),
        ("smooth", 1, True),  # a number that differs by more than rounding
        ("answers", 2, False),  # rounding decides about two of eight
        ("answers", 3, True),
        ("bins", 2, False),
        ("bins", 3, True),
    ],
)
def test_metrics_are_compared_sample_by_sample(name, wrong, is_refused):
    """Of whole numbers, and of rows of a summary, rounding may decide about a few."""
    rows = np.eye(4)[np.arange(8) % 4]
    values = {"smooth": np.linspace(0.1, 0.9, 8), "answers": np.ones(8), "bins": rows}[name]
    probe = Probe(
        cell=Cell(0.0), losses={}, hits={}, allowed={}, metrics={"test": {name: (values, 1e-6)}}
    )
    found = torch.from_numpy(values + 1e-8)
    found[:wrong] += 1
    job = SimpleNamespace(document=SimpleNamespace(objective="mine:judge"))
    with pytest.raises(UsageError, match=name) if is_refused else nullcontext():
        _compare_metrics(job, {name: found}, probe, "test")
    with pytest.raises(UsageError, match=r"mine:judge returns other here, and .* on rank 0"):
        _compare_metrics(job, {"other": found}, probe, "test")
