"""The convolution that adds and rectifies in one step."""

from __future__ import annotations

import pytest
import torch

from lsengine.convolution import onednn, steps
from lsengine.log import NOTICE


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("other", [False, True])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("into_other", [False, True])
def test_one_step_and_three_steps_agree(dtype, other, relu, stride, into_other):
    """OneDNN's fused convolution does what convolution, sum and ReLU do one by one."""
    at_once = onednn.convolve
    if not onednn.is_fit(dtype):
        pytest.skip(f"no fused convolution in {dtype} by this torch on this processor")
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(shape, generator=generator).to(dtype)
        for shape in ((4, 8, 6, 6), (16, 8, 3, 3), (16,))
    )
    size = 6 // stride
    added = torch.randn((4, 16, size, size), generator=generator).to(dtype) if other else None
    where = ((stride, stride), (1, 1), (1, 1), 1)
    x = x.to(memory_format=torch.channels_last)
    if added is not None:
        added = added.to(memory_format=torch.channels_last)
    exact = [None if t is None else t.double() for t in (x, weight, bias, added)]
    found = at_once(x, weight, bias, added, relu, *where, into_other=into_other)
    expected = steps.convolve(*exact, relu, *where)
    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance * 5)


@pytest.mark.parametrize("answer", [torch.zeros(1), RuntimeError("another signature"), None])
def test_operators_that_have_changed_are_not_used(monkeypatch, caplog, answer):
    """Another result, an error, no such operator: three steps, and a line that names the torch."""

    def changed(*_):
        if isinstance(answer, Exception):
            raise answer
        return answer

    class Operators:
        if answer is not None:
            _convolution_pointwise = staticmethod(changed)

    monkeypatch.setattr(torch.ops, "mkldnn", Operators)
    onednn._does_as_expected.cache_clear()
    try:
        with caplog.at_level(NOTICE, "lsengine"):
            for _ in range(2):
                assert not onednn.is_fit(torch.float32)
        assert caplog.text.count("convolving in several steps, which is slower") == 1
        assert f"this is torch {torch.__version__}" in caplog.text
    finally:
        onednn._does_as_expected.cache_clear()


def test_the_operators_of_this_torch_have_been_tried():
    """The version that the tests run with is among those that the module names."""
    assert ".".join(torch.__version__.split(".")[:2]) in onednn.TRIED_WITH
