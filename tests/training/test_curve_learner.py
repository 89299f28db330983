"""The training of a curve's bends."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from lsengine.geometry.curve import barrier, coefficients, point
from lsengine.job.schema import CurveSpec
from lsengine.objective.criterion import OwnObjective
from lsengine.training.curve_learner import CurveTrainer, learning_rate

TS = np.linspace(0, 1, 41)


def _settings(**changes):
    """Return how a curve is trained; also what no job may say."""
    return CurveSpec.model_construct(to="", output="", **changes)


def _train_curve(model, ends, batches_of_epoch, loss, settings, tick=lambda: None):
    """Train a curve from the straight line on; return its control points."""
    trainer = CurveTrainer(model, ends, loss, settings)
    for number in range(1, settings.epochs + 1):
        trainer.epoch(number, batches_of_epoch(number), tick)
    return trainer.controls


class Ring(nn.Module):
    """Two weights in a ring-shaped valley, ``(r - 1)^2``, whose middle the input shifts."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0, 0.0]))

    def forward(self, shift):
        """Return one height per sample."""
        return ((self.w + shift).norm(dim=1) - 1).square()


def _ring_batches(epoch):
    generator = torch.Generator().manual_seed(epoch)
    shifts = 0.05 * torch.randn(20, 4, 2, generator=generator)
    return [(s, torch.zeros(4)) for s in shifts]


def _height(output, _target):
    return output


def _train_ring(**changes):
    ends = ({"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([-1.0, 0.0])})
    settings = _settings(**{"epochs": 30, "lr": 0.1, "weight_decay": 0.0, "seed": 3, **changes})
    return _train_curve(Ring(), ends, _ring_batches, _height, settings)


def _ring_losses(controls, kind):
    radii = [float(point(controls, kind, t)["w"].double().norm()) for t in TS]
    return (np.array(radii) - 1) ** 2


class Small(nn.Module):
    """A layer, batch norm, dropout and a layer."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(3, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 2)
        )

    def forward(self, x):
        """Return logits."""
        return self.layers(x)


def _small(seed):
    torch.manual_seed(seed)
    return Small()


def _ends():
    return tuple({n: p.detach().clone() for n, p in _small(s).named_parameters()} for s in (1, 2))


def _batches(epoch):
    generator = torch.Generator().manual_seed(100 + epoch)
    x = torch.randn(5, 8, 3, generator=generator)
    return [(b, (b.sum(1) > 0).long()) for b in x]


@pytest.mark.parametrize("kind", ["bezier", "polygonal"])
def test_gradients_of_bends_equal_autograd_through_the_weights(kind):
    """Two bends' gradients equal those of the loss written out with explicit weights."""
    settings = _settings(kind=kind, bends=2, weight_decay=0.1)
    model = _small(0)
    model.layers[3].p = 0.0
    trainer = CurveTrainer(model.train(), _ends(), F.cross_entropy, settings)
    (x, y), t = _batches(1)[0], 0.4
    loss = trainer.gradients(t, x, y)
    leaves = [{n: v.clone().requires_grad_() for n, v in c.items()} for c in trainer.controls]
    weights = coefficients(kind, 2, t).tolist()
    here = {n: sum(w * c[n] for w, c in zip(weights, leaves, strict=True)) for n in leaves[0]}
    buffers = {n: b.clone() for n, b in model.named_buffers()}
    expected = F.cross_entropy(functional_call(model, {**here, **buffers}, (x,)), y)
    (expected + 0.05 * sum(v.square().sum() for v in here.values())).backward()
    torch.testing.assert_close(loss, expected.detach())
    for found, leaf in zip(trainer.controls[1:-1], leaves[1:-1], strict=True):
        for name, tensor in found.items():
            torch.testing.assert_close(tensor.grad, leaf[name].grad)


@pytest.mark.parametrize(("kind", "bends"), [("bezier", 1), ("polygonal", 1), ("polygonal", 3)])
def test_a_trained_curve_goes_round_the_hill(kind, bends):
    """Across a ring the straight line has a barrier of 1; the curve follows the valley."""
    controls = _train_ring(kind=kind, bends=bends)
    line = [controls[0], controls[-1]]
    assert barrier(_ring_losses(line, kind), TS) == pytest.approx(1)
    assert barrier(_ring_losses(controls, kind), TS) < 0.1
    assert controls[0]["w"].tolist() == [1.0, 0.0]
    assert controls[-1]["w"].tolist() == [-1.0, 0.0]


def _judged(network, batch):
    x, y = batch["x"], batch["y"]
    return {"loss": F.cross_entropy(network(x), y, reduction="none"), "size": x.abs().sum(1)}


@pytest.mark.parametrize(
    ("criterion", "batches", "rtol"),
    [
        (F.cross_entropy, lambda n: [({"x": x}, y) for x, y in _batches(n)], 0),
        (F.cross_entropy, lambda n: [((x,), y) for x, y in _batches(n)], 0),
        (
            OwnObjective("own", _judged),
            lambda n: [({"x": x, "y": y}, None) for x, y in _batches(n)],
            1e-4,
        ),
    ],
    ids=["by name", "by position", "objective"],
)
def test_batches_of_any_nesting_and_objectives_give_the_same_curve(criterion, batches, rtol):
    """As one tensor and a loss do; an objective's numbers are averaged in float64."""
    settings, names = _settings(epochs=2, lr=0.1), ["layers.0.weight", "layers.4.weight"]
    controls = []
    for judge, of_epoch in ((F.cross_entropy, _batches), (criterion, batches)):
        trainer = CurveTrainer(_small(0), _ends(), judge, settings, names)
        for number in (1, 2):
            trainer.epoch(number, of_epoch(number))
        controls.append(trainer.controls[1])
    assert list(controls[0]) == list(controls[1]) == names
    for name, tensor in controls[0].items():
        torch.testing.assert_close(controls[1][name], tensor, rtol=rtol, atol=rtol)


def test_training_is_the_same_for_the_same_seed():
    """The same seed gives the same bends, bit for bit, dropout included; another does not."""
    found = []
    for seed in (5, 5, 6):
        model, ends = _small(0).train(not found), _ends()
        torch.manual_seed(len(found))  # neither this nor the model's mode plays a part
        settings = _settings(epochs=2, seed=seed)
        controls = _train_curve(model, ends, _batches, F.cross_entropy, settings)
        found.append(torch.cat([v.flatten() for v in controls[1].values()]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_going_on_from_a_saved_state_changes_nothing():
    """Two epochs, saved and loaded between, equal two epochs in one go."""
    settings = _settings(epochs=2, lr=0.1)
    whole, first, second = (
        CurveTrainer(_small(0), _ends(), F.cross_entropy, settings) for _ in range(3)
    )
    for number in (1, 2):
        whole.epoch(number, _batches(number))
    first.epoch(1, _batches(1))
    second.load_state_dict(first.state_dict())
    second.epoch(2, _batches(2))
    for name, tensor in whole.controls[1].items():
        assert torch.equal(tensor, second.controls[1][name])


def test_the_model_and_the_random_stream_are_left_as_they_are():
    """Neither parameters, running statistics, mode nor torch's generator change."""
    model = _small(0).eval()
    before = {n: v.clone() for n, v in model.state_dict().items()}
    ends = _ends()
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    _train_curve(model, ends, _batches, F.cross_entropy, _settings(epochs=1))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    assert not any(m.training for m in model.modules())
    for end, untouched in zip(ends, _ends(), strict=True):
        assert all(torch.equal(v, untouched[n]) for n, v in end.items())


def test_the_tick_can_stop_training():
    """It is called before every mini-batch, and the mode of the model survives."""
    calls = []

    def tick():
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt

    model = _small(0).eval()
    with pytest.raises(KeyboardInterrupt):
        _train_curve(model, _ends(), _batches, F.cross_entropy, _settings(epochs=5), tick)
    assert not model.training


def test_a_loss_that_is_not_finite_ends_the_training():
    """A diverging curve is told with the epoch and what to do."""
    with pytest.raises(FloatingPointError, match=r"epoch \d+ of the curve.*lower learning rate"):
        _train_ring(lr=1e30)


def test_learning_rate_follows_the_schedule():
    """Constant to the half, linear to a hundredth at nine tenths, constant again."""
    rates = [learning_rate(0.5, epoch, 20) for epoch in (1, 10, 14, 18, 20)]
    assert rates == pytest.approx([0.5, 0.5, 0.2525, 0.005, 0.005])


def test_misfits_are_named():
    """Ends that lack a parameter or differ in shape, and curves without bends, are refused."""
    start, end = _ends()
    lacking = {n: v for n, v in end.items() if n != "layers.4.bias"}
    wide = {**end, "layers.4.bias": torch.zeros(3)}
    loss = F.cross_entropy
    with pytest.raises(ValueError, match=r"end 1 of the curve .*missing: layers\.4\.bias"):
        CurveTrainer(_small(0), (start, lacking), loss, _settings())
    with pytest.raises(ValueError, match=r"end 0 .*layers\.4\.bias \(3, in the model 2\)"):
        CurveTrainer(_small(0), (wide, end), loss, _settings())
    with pytest.raises(ValueError, match="at least one bend"):
        CurveTrainer(_small(0), (start, end), loss, _settings(bends=0))
    with pytest.raises(ValueError, match="'spline'; allowed: bezier, polygonal"):
        CurveTrainer(_small(0), (start, end), loss, _settings(kind="spline"))
