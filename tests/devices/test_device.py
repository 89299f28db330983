"""Which device a worker takes, with cards that torch is told of."""

from __future__ import annotations

import pytest
import torch

from lsengine.devices import device_of, visible_count
from lsengine.errors import EnvironmentUnfit


@pytest.fixture
def cards(monkeypatch):
    """Return a function that has torch see so many cards."""

    def see(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)

    return see


@pytest.mark.parametrize("kind", ["auto", "cuda"])
@pytest.mark.parametrize(
    ("count", "expected"), [(1, [0, 0, 0, 0, 0]), (2, [0, 1, 0, 1, 0]), (4, [0, 1, 2, 3, 0])]
)
def test_workers_take_the_cards_they_see_in_turn(cards, kind, count, expected):
    """The first worker takes the first card, and when all are taken it starts again."""
    cards(count)
    assert [device_of(kind, slot) for slot in range(5)] == [
        torch.device("cuda", index) for index in expected
    ]
    assert visible_count("cuda") == count


def test_a_cpu_that_is_asked_for_is_taken_beside_cards(cards):
    """A job that says cpu uses no card, whatever is there."""
    cards(2)
    assert device_of("cpu", 1) == torch.device("cpu")
    assert visible_count("cpu") == 1


def test_without_a_card_auto_is_the_cpu_and_cuda_is_refused(cards):
    """Only who asks for a card by name is told that there is none."""
    cards(0)
    assert device_of("auto", 3) == torch.device("cpu")
    with pytest.raises(EnvironmentUnfit, match=r"cuda is asked for, but torch .* sees none here"):
        device_of("cuda", 0)
