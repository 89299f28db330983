"""Which device a worker takes, with cards that torch is told of, and what suits it."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch

from lsengine.devices import automatic_batch_size, device_of, visible_count
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


def test_a_device_that_is_not_there_is_refused():
    """Asking for a GPU on a machine without one names the key and the device."""
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(EnvironmentUnfit, match="device: cuda"):
        device_of("cuda", 0)


@pytest.mark.parametrize(
    ("shape", "device", "expected"),
    [
        ((3, 32, 32), "cpu", 128),
        ((1, 8, 8), "cpu", 512),
        ((3, 224, 224), "cpu", 16),
        ((64,), "cpu", 512),
        ((3, 32, 32), "cuda", 1024),
        ((1, 8, 8), "cuda", 4096),
    ],
)
def test_automatic_batch_size_is_arithmetic_on_the_shape(shape, device, expected):
    """The same shape and device kind give the same batch size, in every run."""
    assert automatic_batch_size(shape, device) == expected


def test_keeping_freed_memory_changes_no_value_and_spares_page_faults():
    """The same bits with and without it, and repeated passes fault in almost no new pages."""
    script = (
        "import resource, sys, torch\n"
        "from lsengine.devices import tune_malloc\n"
        "if sys.argv[1] == 'keep': tune_malloc()\n"
        "torch.set_num_threads(1); torch.manual_seed(0)\n"
        "layer, x = torch.nn.Conv2d(8, 8, 3, padding=1), torch.randn(128, 8, 32, 32)\n"
        "with torch.inference_mode():\n"
        "    for _ in range(3): out = layer(layer(x))\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    for _ in range(5): out = layer(layer(x))\n"
        "faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "print(out.double().sum().item(), faults)"
    )
    results = {}
    for how in ("keep", "default"):
        ended = subprocess.run(
            [sys.executable, "-c", script, how],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        total, faults = ended.stdout.split()
        results[how] = total, int(faults)
    assert results["keep"][0] == results["default"][0]
    if platform.libc_ver()[0] == "glibc":
        assert results["keep"][1] < 0.5 * results["default"][1] + 50
