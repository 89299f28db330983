"""Threads by the size of the work, against multiply-adds counted by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lsengine.cores import Threads
from lsengine.devices import threads
from lsengine.devices.threads import threads_for

SHARE = Threads(8, "8 cores")


class _Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.project = nn.Linear(8, 24)

    def forward(self, x):
        q, k, v = self.project(x).chunk(3, -1)
        return F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])


@pytest.mark.parametrize(
    ("model", "sample", "expected"),
    [
        (nn.Linear(5, 7), (5,), 35),
        (nn.Linear(5, 7, bias=False), (3, 5), 105),
        (nn.Conv2d(3, 4, 3, padding=1), (3, 6, 5), 4 * 30 * 27),
        (nn.Conv2d(4, 4, 3, stride=2, groups=2), (4, 7, 7), 4 * 9 * 18),
        (nn.ConvTranspose2d(3, 4, 2, stride=2), (3, 5, 5), 3 * 25 * 16),
        (nn.Bilinear(2, 2, 3), None, None),
        (_Attention(), (6, 8), 6 * 8 * 24 + 2 * 6 * 6 * 8),
    ],
)
def test_multiply_adds_are_counted(model, sample, expected):
    """Of one sample, by the formula of each layer; operations that are not known count nothing."""
    with torch.no_grad(), threads._Counter() as counter:
        if sample is None:
            model(torch.ones(1, 2), torch.ones(1, 2))
        else:
            model.eval()(torch.ones(1, *sample))
    assert expected is None or counter.found == expected


@pytest.mark.parametrize(
    ("layers", "found"),
    [
        (2**24, (1, "a network this small is faster so")),
        (2**25 * 3, (3, "as its layers are large")),
        (2**28, (8, "8 cores")),
        (2**31, (8, "8 cores")),
    ],
)
def test_each_thread_has_enough_to_do_in_a_layer(layers, found):
    """At least `_PER_THREAD` multiply-adds; a layer of a batch of two samples takes so many."""
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1))

    def call():
        torch.mm(
            torch.empty(1, layers // 2, device="meta"), torch.empty(layers // 2, 2, device="meta")
        )
        return 1

    assert threads_for(model, call, batch_size=2, share=SHARE) == Threads(*found)


def test_large_weights_need_no_trial():
    """A weight is used at least once for every sample."""
    with torch.device("meta"):
        model = nn.Linear(2**14, 2**14)
    assert threads_for(model, pytest.fail, batch_size=16, share=SHARE) == SHARE


def test_one_core_needs_no_trial():
    """There is nothing to choose."""
    assert threads_for(nn.Linear(2, 2), pytest.fail, batch_size=1, share=Threads(1, "x")).count == 1


def test_random_numbers_of_the_process_stay_as_they_were():
    """A network may draw some."""
    model, draws = nn.Linear(2, 2), []
    for is_tried in (False, True):
        torch.manual_seed(0)
        if is_tried:
            threads_for(model, lambda: len(torch.rand(3)), batch_size=1, share=SHARE)
        draws.append(torch.rand(4))
    assert torch.equal(*draws)
