"""Where inputs are, by arithmetic."""

from __future__ import annotations

import pytest

from lsengine.objective.residence import Inputs, residence

GIB = 2**30
IMAGES = 50_000 * 3 * 224 * 224  # numbers of an ImageNet-size validation set
CIFAR = 60_000 * 3 * 32 * 32


def _bytes(numbers, mapped=False):
    """Return inputs that are stored as bytes and read as float32."""
    return Inputs(ready=4 * numbers, raw=numbers, is_mapped=mapped)


@pytest.mark.parametrize(
    ("inputs", "device", "free", "expected"),
    [
        pytest.param(_bytes(CIFAR), "cuda", 10 * GIB, "ready", id="cifar"),
        pytest.param(_bytes(IMAGES), "cuda", 139 * GIB, "ready", id="imagenet-on-a-large-card"),
        pytest.param(_bytes(IMAGES), "cuda", 23 * GIB, "raw", id="imagenet-on-24-gib"),
        pytest.param(_bytes(IMAGES), "cuda", 10 * GIB, "host", id="imagenet-on-10-gib"),
        pytest.param(_bytes(IMAGES, True), "cuda", 10 * GIB, "file", id="the-same-mapped"),
        pytest.param(_bytes(IMAGES, True), "cuda", 23 * GIB, "raw", id="mapped-on-24-gib"),
        pytest.param(_bytes(IMAGES), "cpu", 16 * GIB, "raw", id="a-cpu-has-it-in-memory"),
        pytest.param(_bytes(IMAGES, True), "cpu", 10 * GIB, "file", id="or-in-a-file"),
        pytest.param(_bytes(IMAGES), "mps", GIB, "ready", id="mps"),
        pytest.param(
            Inputs(ready=8 * GIB, raw=8 * GIB, is_mapped=False),
            *("cuda", 12 * GIB, "host"),
            id="floats-are-no-smaller-as-they-are-stored",
        ),
    ],
)
def test_inputs_are_in_the_fastest_place_that_has_room(inputs, device, free, expected):
    """Half of what is free is for data."""
    assert residence(inputs, device=device, free=free) == expected


def test_limits_are_exact_to_the_byte():
    """One byte less than twice what is needed, and the next place is taken."""
    inputs = _bytes(1000)
    found = [
        residence(inputs, device="cuda", free=free, others=100)
        for free in (8100, 8099, 2100, 2099, 0)
    ]
    assert found == ["ready", "raw", "raw", "host", "host"]
