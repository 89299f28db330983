"""Running statistics measured anew, of every kind of module that keeps some."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from lsengine.errors import UsageError
from lsengine.objective.forward import ForwardPass
from lsengine.objective.recalibration import recalibrate


class Own(nn.Module):
    """A normalisation as a user writes one, with torch's convention of the momentum."""

    def __init__(self, inverse=False):
        super().__init__()
        self.register_buffer("running_mean", torch.full((4,), 7.0))
        self.register_buffer("running_var", torch.full((4,), 9.0))
        self.momentum, self.inverse = 0.1, inverse
        self.inner = nn.Dropout(0.5)

    def forward(self, x):
        """Normalise, and take up the batch's statistics while training."""
        if self.training:
            with torch.no_grad():
                share = 1 - self.momentum if self.inverse else self.momentum
                self.running_mean += share * (x.mean(0) - self.running_mean)
                self.running_var += share * (x.var(0) - self.running_var)
        return self.inner((x - self.running_mean) / self.running_var.sqrt())


@pytest.mark.parametrize(
    "layer", [nn.BatchNorm1d(4), nn.InstanceNorm1d(4, track_running_stats=True), Own()]
)
def test_statistics_are_the_plain_averages_of_all_batches(layer):
    """Whatever module keeps them, and whatever they were; the mode is evaluation again."""
    torch.manual_seed(0)
    shape = (8, 4, 5) if isinstance(layer, nn.InstanceNorm1d) else (8, 4)
    batches = [torch.randn(shape) + k for k in range(3)]
    model = nn.Sequential(layer, nn.Flatten()).eval()
    with torch.no_grad():
        recalibrate(model, ForwardPass(model), batches)
    if layer.running_mean is not None:
        over = 0 if len(shape) == 2 else (0, 2)
        expected = np.mean([b.double().mean(over).numpy() for b in batches], axis=0)
        np.testing.assert_allclose(layer.running_mean.numpy(), expected, rtol=1e-5)
    assert layer.momentum == 0.1
    assert not any(module.training for module in model.modules())


def test_a_module_with_another_rule_is_refused():
    """Statistics that do not become those of a batch at momentum 1 cannot be averaged."""
    model = nn.Sequential(Own(inverse=True)).eval()
    with torch.no_grad(), pytest.raises(UsageError, match=r"Own.*use frozen or interpolated"):
        recalibrate(model, ForwardPass(model), [torch.randn(8, 4), torch.randn(8, 4)])


def test_a_module_without_a_momentum_is_refused():
    """It is named with its class."""
    layer = Own()
    del layer.momentum
    with pytest.raises(UsageError, match=r"Own.*no momentum"):
        recalibrate(nn.Sequential(layer), ForwardPass(layer), [torch.randn(8, 4)])
