"""The order in memory of images and filters."""

from __future__ import annotations

import pytest
import torch
from torch import nn

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
