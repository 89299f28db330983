"""The keys that say how checkpoints are read work wherever one is read."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lsengine import job as jobs
from lsengine import store
from lsengine.engine import Options, connect, evaluate, prepare
from lsengine.errors import SurfaceError
from tests.support.jobs import write_job
from tests.support.state_dicts import other, prefixed

MODEL = {"arch": "testnets:mlp", "args": {"batch_norm": False}}
KEYS = {"checkpoint_key": "ema", "strip_prefix": "net."}
LINE = {"alpha": [0, 1, 2]}


def _states(count):
    """Return states of the network, 6 inputs to 3 outputs, some way from each other."""
    generator = torch.Generator().manual_seed(3)
    shapes = {"0.weight": (16, 6), "0.bias": (16,), "2.weight": (3, 16), "2.bias": (3,)}
    return [
        {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        for _ in range(count)
    ]


def _write(path, state):
    """Write a file whose plain parameters are others, and which has a metric beside."""
    ema = {**prefixed(state, "net."), "criterion.weight": torch.ones(3)}
    plain = {**prefixed(other(state, 0.1), "net."), "criterion.weight": torch.ones(3)}
    torch.save({"state_dict": plain, "state_dict_ema": ema}, path)


def _naive_loss(folder, state, split="train"):
    """Return the mean cross entropy in float64, sample by sample."""
    with np.load(folder / "data.npz") as data:
        x, y = data[f"x_{split}"].astype(np.float64), data[f"y_{split}"]
    w = {name: tensor.double().numpy() for name, tensor in state.items()}
    losses = []
    for sample, label in zip(x, y, strict=True):
        hidden = np.maximum(w["0.weight"] @ sample + w["0.bias"], 0)
        logits = w["2.weight"] @ hidden + w["2.bias"]
        losses.append(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[label])
    return float(np.mean(losses))


def _job(folder, name="job", **changes):
    model = {**MODEL, "checkpoint": "first.ckpt", **KEYS}
    return write_job(folder, name, **({"model": model, "grid": LINE} | changes))


def _evaluate(path):
    assert evaluate([path], Options(progress="none"), world=None) == 0
    return store.read(path.with_suffix(".h5"))


def test_a_line_between_two_averages(tmp_path):
    """Centre and other end are chosen alike; without the key it is another surface."""
    first, second = _states(2)
    _write(tmp_path / "first.ckpt", first)
    _write(tmp_path / "second.ckpt", second)
    toward = {"alpha": {"kind": "toward", "checkpoint": "second.ckpt"}}
    surface = _evaluate(_job(tmp_path, directions=toward))
    expected = [_naive_loss(tmp_path, first), _naive_loss(tmp_path, second)]
    assert surface.quantities["train_loss"] == pytest.approx(expected, rel=1e-6)
    plain = {**MODEL, "checkpoint": "first.ckpt", "strip_prefix": "net."}
    path = _job(tmp_path, directions=toward, model=plain)
    with pytest.raises(SurfaceError, match=r"belongs to another job: model"):
        evaluate([path], Options(progress="none"), world=None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_a_trajectory_of_folders(tmp_path, dtype):
    """Their numbers are the column, their own losses those of a plain loop."""
    safetensors = pytest.importorskip("safetensors.torch")
    rounded = [{n: t.to(dtype) for n, t in state.items()} for state in _states(3)]
    states = dict(zip((200, 1000, 30), rounded, strict=True))
    for step, state in states.items():
        folder = tmp_path / "run" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        safetensors.save_file(prefixed(state, "net."), folder / "model.safetensors")
    path = _job(
        tmp_path,
        model={**MODEL, "checkpoint": "run/checkpoint-1000"},
        directions={"alpha": {"kind": "principal", "checkpoints": "run/checkpoint-*"}},
        grid={"alpha": ["auto", 3]},
    )
    track = _evaluate(path).trajectory
    assert track.columns["epoch"].tolist() == [30, 200, 1000]
    assert track.unit == "checkpoint"
    expected = [_naive_loss(tmp_path, states[step]) for step in (30, 200, 1000)]
    assert track.columns["train_loss"] == pytest.approx(expected, rel=1e-6)
    assert track.columns["alpha"][-1] == 0


def test_a_curve_between_two_averages(tmp_path):
    """Both control points at the ends are those that the keys choose."""
    first, second = _states(2)
    _write(tmp_path / "first.ckpt", first)
    _write(tmp_path / "second.ckpt", second)
    curve = {"to": "second.ckpt", "output": "curve", "epochs": 1, "points": 2}
    path = _job(tmp_path, curve=curve, directions=None, grid=None)
    connect.run(path, Options(progress="none"), world=None)
    controls = torch.load(tmp_path / "curve" / "curve.pt")["controls"]
    for state, control in ((first, controls[0]), (second, controls[-1])):
        assert all(torch.equal(control[name], tensor) for name, tensor in state.items())


def test_float64_is_not_rounded_on_the_way(tmp_path):
    """The network that all commands share has the file's numbers."""
    (state,) = _states(1)
    _write(tmp_path / "first.ckpt", {name: t.bfloat16() for name, t in state.items()})
    loaded = prepare.load(jobs.load(_job(tmp_path, grid=None), command="any"))
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, state[name].bfloat16().to(tensor.dtype))
