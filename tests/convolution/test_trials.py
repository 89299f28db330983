"""What is tried before it is used."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from lsengine.convolution import steps, trials
from lsengine.log import NOTICE

CPU = torch.device("cpu")
GEOMETRY = ((1, 1), (1, 1), (1, 1), 1)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def _right(x, weight, bias, other):
    return steps.convolve(x, weight, bias, other, True, *GEOMETRY)


def _rectified_nan(*numbers):
    return _right(*numbers).nan_to_num()


def _without_sum(x, weight, bias, other):
    return _right(x, weight, bias, None)


def _stale(*numbers):
    return _right(*numbers) + torch.nan  # as if its memory had been read


def _gone(*numbers):
    raise AttributeError("no such operator")


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_right_is_used_without_a_word(caplog, dtype):
    """The known numbers have exact sums in every precision."""
    with caplog.at_level(NOTICE, "lsengine"):
        assert trials._is_right("it", _right, CPU, dtype)
    assert not caplog.text


@pytest.mark.parametrize(
    ("convolve", "reason"),
    [
        (_rectified_nan, "a ReLU that makes a number of NaN"),
        (_without_sum, "another result than that of single steps"),
        (_stale, "another result than that of single steps"),
        (_gone, "AttributeError: no such operator"),
    ],
)
def test_what_is_wrong_is_not_used_and_said(caplog, convolve, reason):
    """A result, a lost NaN or an error: one line says why."""
    with caplog.at_level(NOTICE, "lsengine"):
        assert not trials._is_right("its kernels", convolve, CPU, torch.float32)
    assert f"convolving without its kernels, which is slower: {reason}" in caplog.text


def test_no_memory_is_another_matter():
    """Then single steps would not fare better."""

    def full(*numbers):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        trials._is_right("it", full, CPU, torch.float32)


def test_the_lack_of_triton_is_not_mentioned(monkeypatch, caplog):
    """It is no dependency."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with caplog.at_level(NOTICE, "lsengine"):
        assert not trials.has_triton(torch.device("cuda", 7))
    assert not caplog.text
    trials.has_triton.cache_clear()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_card_does_as_expected():
    """On cards with tf32, cuDNN's fused convolutions are right, and Triton's kernels if there."""
    device = torch.device("cuda", 0)
    if torch.cuda.get_device_capability(device) < (8, 0):
        pytest.skip("the card has no tf32")
    assert all(trials.has_cudnn(device, dtype) for dtype in DTYPES)
    assert trials.has_triton(device) == (importlib.util.find_spec("triton") is not None)
