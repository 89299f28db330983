"""Kernels to be measured compute what the one in use does, by Triton's interpreter."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = """
import torch
from torch.nn import functional as F
import convolution_variants
torch.manual_seed(0)
for images, channels, height, width in ((2, 16, 5, 7), (1, 32, 4, 4), (3, 16, 1, 1)):
    x, other = (torch.randn(images, channels, height, width) for _ in range(2))
    weight, bias = torch.randn(channels, channels, 3, 3), torch.randn(channels)
    x, other, weight = (t.to(memory_format=torch.channels_last) for t in (x, other, weight))
    launch = {"precision": "tf32x3", "block": 32, "warps": 4, "stages": 2}
    for added in (None, other):
        expected = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
        expected = torch.relu(expected if added is None else expected + added.double())
        found = convolution_variants.three_taps(x, weight, bias, added, **launch)
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)
"""


def test_three_taps_at_once_are_a_convolution():
    """Against float64, with odd sizes, one pixel, and with a sum and without."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    path = os.pathsep.join([str(ROOT / "benchmarks"), str(ROOT)])
    env = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": path}
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
