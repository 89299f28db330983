"""Kernels to be measured compute what the one in use does, by Triton's interpreter."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
START = """
import torch
from torch.nn import functional as F
from convolution_variants import convolve, pack, stage
torch.manual_seed(0)
HOW = {"precision": "tf32x3", "warps": 4}
LAST = {"memory_format": torch.channels_last}

def images(*shape, spoilt=False):
    found = torch.randn(shape).contiguous(**LAST)
    if spoilt:
        found[0, 3, 0, 0] = torch.nan
    return found

def weights(*shape):
    return torch.randn(shape) / (3 * shape[-3] ** 0.5)

def compare(found, expected, tolerance=1e-5):
    assert found.is_contiguous(**LAST)
    assert found.isnan()[expected.isnan()].all() and not found[1:].isnan().any()
    ok = ~found.isnan()  # packed neighbours of NaN may be NaN, too, but no other image
    near = {"rtol": tolerance, "atol": tolerance}
    torch.testing.assert_close(found.double()[ok], expected[ok], **near)
"""
CONVOLUTIONS = """
CASES = (
    # images, number type, packed, with a sum, spoilt
    ((3, 16, 5, 7), torch.float32, 1, True, True),
    ((3, 16, 5, 7), torch.float32, 2, False, False),
    ((3, 16, 5, 7), torch.float16, 4, True, False),
    ((2, 16, 3, 11), torch.float16, 2, True, True),
    ((2, 16, 3, 11), torch.float32, 4, True, True),
    ((1, 32, 4, 4), torch.float16, 1, False, False),
    ((1, 32, 4, 4), torch.float32, 2, True, False),
    ((3, 16, 1, 1), torch.float32, 1, True, False),
    ((3, 16, 1, 1), torch.float32, 4, True, False),
)
for shape, dtype, packed, is_sum, spoilt in CASES:
    channels = shape[1]
    x, other = images(*shape, spoilt=spoilt).to(dtype), images(*shape).to(dtype)
    weight, bias = weights(channels, channels, 3, 3).to(dtype), torch.randn(channels).to(dtype)
    expected = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    expected = torch.relu(expected + other.double() if is_sum else expected)
    added = other if is_sum else None
    found = convolve(x, pack(weight, packed), bias, added, block=64, stages=2, **HOW)
    compare(found, expected, 1e-5 if dtype == torch.float32 else 2e-3)
    assert spoilt or not found.isnan().any()
    assert packed > 1 or (found.isnan() == expected.isnan()).all()
    assert not found.isnan().all()
"""
STAGES = """
CASES = (
    # images, packed, residual blocks, pixels at a time, programs, spoilt
    ((5, 16, 4, 4), 1, 2, 32, 2, True),  # two images together, in two turns
    ((3, 16, 5, 7), 1, 2, 16, 2, False),  # an image takes several blocks
    ((3, 16, 5, 7), 2, 3, 64, 1, False),
    ((3, 32, 4, 4), 2, 1, 32, 4, True),  # more programs than there are images
    ((1, 16, 3, 6), 4, 2, 64, 1, False),
)
for shape, packed, depth, block, programs, spoilt in CASES:
    channels = shape[1]
    x = images(*shape, spoilt=spoilt)
    weight, bias = weights(2 * depth, channels, channels, 3, 3), torch.randn(2 * depth, channels)
    before = x.clone()
    found = stage(x, pack(weight, packed), bias, block=block, programs=programs, **HOW)
    torch.testing.assert_close(x, before, rtol=0, atol=0, equal_nan=True)
    expected = x.double()
    for of_block, biases in zip(weight.double().split(2), bias.double().split(2)):
        inner = torch.relu(F.conv2d(expected, of_block[0], biases[0], padding=1))
        expected = torch.relu(F.conv2d(inner, of_block[1], biases[1], padding=1) + expected)
    compare(found, expected)
    assert spoilt or not found.isnan().any()
"""


def test_packed_pixels_and_whole_stages_are_convolutions():
    """Against float64: odd sizes and numbers of images, one pixel, sums, NaN, float16."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    path = os.pathsep.join([str(ROOT / "benchmarks"), str(ROOT)])
    env = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", START + CONVOLUTIONS + STAGES]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
