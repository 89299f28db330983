"""The order in memory of images and filters."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lsengine.convolution import trials
from lsengine.objective import EvaluationSettings
from lsengine.objective.layout import is_channels_last


@pytest.mark.parametrize(
    ("device", "precision", "fuses", "expected"),
    [
        ("cpu", "float32", True, True),
        ("cpu", "float64", True, True),
        ("cpu", "float32", False, False),
        ("cuda", "float32", True, False),  # as fast as a user's own loop, by construction
        ("cuda", "float64", True, False),
        ("cuda", "tf32", True, True),
        ("cuda", "float16", True, True),
        ("cuda", "bfloat16", True, True),
        ("cuda", "bfloat16", False, False),
    ],
)
def test_the_layout_goes_by_device_and_precision(device, precision, fuses, expected):
    """Row-major on CUDA in float32 and float64, and always for a user's own network."""
    settings = EvaluationSettings(
        device=torch.device(device), precision=precision, batch_size=1, fuses=fuses
    )
    network = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 1000, 3))
    assert is_channels_last(network, settings) is expected


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()), True),
        (nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 128, 1)), False),
        (nn.Sequential(nn.Conv2d(3, 16, 3, padding="same")), False),
        (nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ConvTranspose2d(16, 16, 3)), False),
        (nn.Sequential(nn.Flatten(), nn.Linear(8, 8)), False),
    ],
)
@pytest.mark.parametrize("has_triton", [True, False])
def test_float32_goes_by_what_triton_does(monkeypatch, network, expected, has_triton):
    """Channels-last if all convolutions are Triton's and all layers are fused."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(trials, "has_triton", lambda device: has_triton)
    settings = EvaluationSettings(device=torch.device("cuda"), precision="float32", batch_size=1)
    assert is_channels_last(network, settings) is (expected and has_triton)
