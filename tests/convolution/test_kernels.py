"""Triton's kernel against float64, by its interpreter and on a card."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from tests.support import kernel_cases


@pytest.fixture(scope="module")
def interpreted():
    """What the interpreter gives for every case."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    return kernel_cases.results("cpu")


@pytest.fixture(scope="module")
def on_a_card():
    """What a card gives."""
    return kernel_cases.results("cuda")


@pytest.mark.parametrize("case", kernel_cases.CASES)
def test_the_kernel_is_a_convolution(interpreted, case):
    """For every class of shapes, edge, part and dtype the result is that of float64, rounded."""
    error, allowed = interpreted[case]
    assert error <= allowed


def test_nothing_is_left_out(interpreted):
    """Every case was run, and there are no others."""
    assert sorted(interpreted) == sorted(kernel_cases.CASES)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("case", kernel_cases.CASES)
def test_the_kernel_is_a_convolution_on_a_card(on_a_card, case):
    """The same on a card, where numbers are multiplied as they say."""
    error, allowed = on_a_card[case]
    assert error <= allowed
