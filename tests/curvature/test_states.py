"""What a network is for a while is put back."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils import checkpoint

from lsengine.curvature import states
from tests.support import odd_networks as odd


def test_float64_ends_with_the_very_tensors_of_before():
    """Views of a buffer stay views of it, and what was written meanwhile is gone."""
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).eval()
    buffer = torch.arange(6.0)
    model[0].weight.data = buffer.view(2, 3)
    with states.in_float64(model):
        assert {t.dtype for t in model.parameters()} == {torch.float64}
        model[0].weight.data.zero_()
    assert model[0].weight.data_ptr() == buffer.data_ptr()
    assert buffer.tolist() == list(range(6))
    assert model[1].num_batches_tracked.dtype == torch.int64


def test_leaves_have_no_hooks_and_no_gradients_afterwards():
    """Only the chosen parameters are differentiated by, and by their own gradient."""
    model = odd.Hooked()
    model.requires_grad_(False)
    with states.as_leaves(model, [model.a.weight], row_major=True):
        assert [n for n, p in model.named_parameters() if p.requires_grad] == ["a.weight"]
        model(torch.ones(2, 6)).sum().backward()
        plain = model.a.weight.grad.clone()
    assert model.a.weight.grad is None
    assert not model.a.weight.requires_grad
    model.requires_grad_(True)
    model(torch.ones(2, 6)).sum().backward()
    torch.testing.assert_close(model.a.weight.grad, 3 * plain)


def test_torch_is_as_it_was_after_derivatives():
    """Functions that were replaced are there again."""
    before = checkpoint.CheckpointFunction, torch.autograd.grad, torch.autograd.functional.vjp
    onednn = torch._C._get_mkldnn_enabled()
    with states.differentiating(plain_kernels=True, inner_graphs=True):
        assert torch.autograd.grad is not before[1]
        assert not torch._C._get_mkldnn_enabled()
    after = checkpoint.CheckpointFunction, torch.autograd.grad, torch.autograd.functional.vjp
    assert after == before
    assert torch._C._get_mkldnn_enabled() == onednn
