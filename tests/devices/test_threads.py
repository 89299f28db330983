"""Threads by the size of the work, against multiply-adds counted by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lsengine.cores import Threads
from lsengine.devices import threads
from lsengine.devices.threads import threads_for

SHARE = Threads(8, "8 cores")


@pytest.mark.parametrize(
    ("model", "sample", "expected"),
    [
        (nn.Linear(5, 7), (5,), 35),
        (nn.Linear(5, 7, bias=False), (3, 5), 105),
        (nn.Conv2d(3, 4, 3, padding=1), (3, 6, 5), 4 * 30 * 27),
        (nn.Conv2d(4, 4, 3, stride=2, groups=2), (4, 7, 7), 4 * 9 * 18),
        (nn.ConvTranspose2d(3, 4, 2, stride=2), (3, 5, 5), 3 * 25 * 16),
        (nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 2)), (5,), 35 + 14),
    ],
)
def test_multiply_adds_are_counted(model, sample, expected):
    """Of one sample, by the formula of each layer; other layers count nothing, nor afterwards."""
    model.eval()
    with torch.no_grad(), threads.counted(model) as found:
        model(torch.ones(1, *sample))
    model(torch.ones(1, *sample))
    assert found == [expected]


def test_tables_of_embeddings_multiply_nothing():
    """They are looked up."""
    model = nn.Embedding(9, 4)
    with threads.counted(model) as found:
        model(torch.tensor([[1, 2]]))
    assert found == [0]


@pytest.mark.parametrize(
    ("layers", "found"),
    [
        (2**24, (1, "a network this small gains little by more")),
        (2**25 * 3, (3, "as its layers are large")),
        (2**28, (8, "8 cores")),
        (2**31, (8, "8 cores")),
    ],
)
def test_each_thread_has_enough_to_do_in_a_layer(layers, found):
    """At least `_PER_THREAD` multiply-adds; a layer of a batch of two samples takes so many."""
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1))
    assert threads_for(model, lambda: (layers, 1), batch_size=2, share=SHARE) == Threads(*found)


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
            threads_for(model, lambda: (len(torch.rand(3)), 1), batch_size=1, share=SHARE)
        draws.append(torch.rand(4))
    assert torch.equal(*draws)
