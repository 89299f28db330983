"""Which vectors fit where: sums by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lsengine.curvature import LanczosOptions
from lsengine.errors import EnvironmentUnfit
from lsengine.objective import EvaluationSettings
from lsengine.objective.device_state import weights_of
from lsengine.objective.placement import Weights, placement

GB = 10**9
LARGE = Weights(
    moving=7 * GB, network=7 * GB, directions=2, width=4, compute_width=2, is_copied=True
)


def _total(weights, hosted):
    return sum(weights.on_device(hosted).values()), sum(weights.on_host(hosted).values())


def test_seven_billion_numbers_are_counted():
    """Network 28 GB, its copy in 16 bits 14 GB, and three vectors of 28 GB here or there."""
    assert _total(LARGE, "none") == (126 * GB, 0)
    assert _total(LARGE, "directions") == (70 * GB, 56 * GB)
    assert _total(LARGE, "all") == (42 * GB, 84 * GB)


@pytest.mark.parametrize(
    ("free", "host", "expected"),
    [
        (144, 0, "none"),  # an eighth of it is left for activations
        (143, 56, "directions"),
        (80, 56, "directions"),
        (79, 84, "all"),
        (48, 84, "all"),
        (45, 84, "all"),  # little is left, but it fits
    ],
)
def test_as_few_vectors_as_may_be_are_on_the_host(free, host, expected):
    """The limits of each choice, on a card."""
    found = placement(LARGE, device="cuda", free=free * GB, free_host=host * GB)
    assert found == expected


@pytest.mark.parametrize(
    ("device", "free", "host", "said"),
    [
        ("cuda", 41, 999, r"7,000,000,000 numbers move along 2 directions; on cuda network 26.1"),
        (
            "cuda",
            80,
            55,
            r"host's memory, copied for every cell, directions 52.2 = 52.2 GiB; .*51.2",
        ),
        ("cpu", 97, 97, r"centre 26.1 \+ directions 52.2 = 117.3 GiB of 90.3 GiB free"),
    ],
)
def test_what_fits_nowhere_is_refused_with_the_arithmetic(device, free, host, said):
    """A card that is too small for the network, a host for the directions, a CPU for all."""
    with pytest.raises(EnvironmentUnfit, match=said):
        placement(LARGE, device=device, free=free * GB, free_host=host * GB)
    assert placement(LARGE, device="cpu", free=98 * GB, free_host=98 * GB) == "none"


def _settings(precision="float32", **more):
    return EvaluationSettings(device=torch.device("cpu"), precision=precision, batch_size=4, **more)


def test_weights_are_those_of_the_network():
    """By precision and forward pass: 3 x 4 numbers move of 12 + 3 + 4 x 3, along two directions."""
    network = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))  # a counter is not counted

    def total(settings):
        return sum(weights_of(network, {"0.weight"}, 2, settings).on_device("none").values())

    assert total(_settings("float64")) == (27 + 3 * 12) * 8
    assert total(_settings(fuses=False)) == (27 + 3 * 12) * 4
    assert total(_settings("bfloat16", fuses=False)) == (27 + 3 * 12) * 4 + 27 * 2
    # A fused pass: a copy, the rounded numbers, and vectors that are folded.
    assert total(_settings()) == (27 + 2 * 3 * 12) * 4 + (27 + 12) * 4
    curved = LanczosOptions(max_products=20, basis=8)
    vectors = total(_settings("float64", curvature=curved)) - total(_settings("float64"))
    assert vectors >= (8 + 8) * 21 * 8
