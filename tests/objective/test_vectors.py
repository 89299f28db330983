"""Vectors in the host's memory, against those on the device."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lsengine import data, devices
from lsengine.objective import vectors
from lsengine.objective.device_state import placed
from lsengine.objective.placement import HOSTED, Weights
from lsengine.objective.vectors import Blocked, HostVectors, Vectors, in_blocks
from lsengine.surface.grid import Cell
from tests.support.objectives import (
    CELLS,
    filter_normalized,
    objective_of,
    resnet,
    small_objective,
)

COUNT = 1000


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("hosted", HOSTED[1:])
def test_blocks_have_the_bits_of_the_whole(monkeypatch, hosted, dtype, threads):
    """Also next to infinite numbers, after factors, and for steps of nothing."""
    monkeypatch.setattr(vectors, "BLOCK", 64)
    generator = torch.Generator().manual_seed(3)
    drawn = [torch.randn(COUNT, generator=generator) for _ in range(6)]
    centre_M, *along, factor_M = drawn
    along[0][5] = torch.inf
    repeats = [along[:2], along[2:]]

    def steps(cell):
        return cell.alpha, cell.beta

    def host(vector_M):
        return Blocked(vector_M.clone().split(64), True)

    centre = Blocked([centre_M], False) if hosted == "directions" else host(centre_M)
    blocks = [[host(direction_M) for direction_M in of] for of in repeats]
    whole, parts = (
        Vectors(centre_M, repeats, steps),
        HostVectors(centre, blocks, steps, torch.device("cpu")),
    )
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        for one, other in ((whole, parts), (whole.times(factor_M), parts.times(factor_M))):
            for cell in (Cell(0.3, -0.7), Cell(0.0, 1.5, 1), Cell(0.0), Cell(-2.0, 0.0, 1)):
                expected, found = one.empty(dtype), other.empty(dtype)
                one.displace(cell, expected)
                other.displace(cell, found)
                assert torch.equal(expected.view(torch.uint8), found.view(torch.uint8))
    finally:
        torch.set_num_threads(before)
    assert whole.times(torch.ones(COUNT)) is whole
    assert parts.times(torch.ones(COUNT)) is parts


def test_pieces_of_any_length_fill_rooms_of_any_length():
    """Against their concatenation."""
    pieces = [torch.arange(n) + 10.0 * n for n in (0, 3, 1, 8, 2)]
    rooms = [torch.zeros(n) for n in (4, 4, 6)]
    in_blocks(pieces, rooms)
    assert torch.equal(torch.cat(rooms), torch.cat(pieces))


KINDS = ["everything", "weights", "bfloat16", "float64", "recalibrated", "own network"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hosted", HOSTED[1:])
def test_cells_have_the_same_bytes_wherever_vectors_are(monkeypatch, kind, hosted):
    """Losses, accuracies and curvature of every kind of cell."""
    monkeypatch.setattr(vectors, "BLOCK", 16)
    expected, found = small_objective(kind, hosted="none"), small_objective(kind, hosted=hosted)
    for cell in CELLS:
        assert repr(found.evaluate(cell)) == repr(expected.evaluate(cell))
    assert repr(found.exact_losses(CELLS[1])) == repr(expected.exact_losses(CELLS[1]))


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float64"])
def test_a_folded_network_has_the_same_bytes(monkeypatch, digits, precision):
    """Vectors that normalisations are folded into are in the host's memory, too."""
    monkeypatch.setattr(vectors, "BLOCK", 1024)
    network = resnet()
    both = [
        objective_of(network, digits, filter_normalized(network), precision, hosted=hosted)
        for hosted in ("none", "all")
    ]
    for cell in CELLS:
        assert both[0].losses(cell) == both[1].losses(cell)


def test_complex_numbers_and_repeats_have_the_same_bytes(monkeypatch):
    """A complex parameter, and two repeats of a single direction."""
    monkeypatch.setattr(vectors, "BLOCK", 16)

    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.turn = (
                nn.Linear(12, 5),
                nn.Parameter(torch.randn(5, dtype=torch.cfloat)),
            )

        def forward(self, x):
            return (self.first(x.flatten(1)) * self.turn).real

    torch.manual_seed(1)
    network, x = Turned(), torch.randn(20, 1, 3, 4)
    dataset = data.Dataset(
        splits={"train": data.Split(x, torch.arange(20) % 5)}, mean=None, std=None, classes=5
    )
    along = {n: torch.randn(2, *p.shape, dtype=p.dtype) for n, p in network.named_parameters()}
    losses = []
    for hosted in HOSTED:
        objective = objective_of(
            network, dataset, {"alpha": along}, fuses=False, hosted=hosted, repeats=True
        )
        losses.append([objective.losses(Cell(0.5, 0.0, repeat)) for repeat in (0, 1)])
    assert losses[0] == losses[1] == losses[2]
    assert losses[0][0] != losses[0][1]


@pytest.mark.parametrize(
    ("kind", "free", "expected"),
    [
        ("cuda", 700, "none"),
        ("cuda", 520, "directions"),
        ("cuda", 400, "all"),
        ("cpu", 0, "none"),
    ],
)
def test_what_does_not_fit_on_the_device_goes_to_the_host(monkeypatch, kind, free, expected):
    """By the memory that is free on each; 600 bytes are needed, or 440 or 360."""
    monkeypatch.setattr(devices, "free_bytes", lambda device: free)
    monkeypatch.setattr(devices, "free_host_bytes", lambda: 320)
    weights = Weights(
        moving=20,
        network=70,
        directions=2,
        width=4,
        compute_width=4,
        is_copied=False,
        others=80,
    )
    hosted, said = placed(weights, torch.device(kind))
    assert hosted == expected
    assert said.startswith("20 numbers move along 2 directions; on ")


def test_an_objective_takes_vectors_from_where_they_are_placed():
    """Resident ones where nothing is said, as a CPU has no other memory."""
    assert type(small_objective("weights")._flat.vectors) is Vectors
    assert type(small_objective("weights", hosted="directions")._flat.vectors) is HostVectors


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("hosted", HOSTED[1:])
def test_cells_have_the_same_bytes_on_a_card(monkeypatch, digits, precision, hosted):
    """Blocks that are copied while others are added up, also for a cell that is prepared ahead."""
    monkeypatch.setattr(vectors, "BLOCK", 1024)
    network, found = resnet(), {}
    for where in ("none", hosted):
        objective = objective_of(
            network,
            digits,
            filter_normalized(network),
            precision,
            hosted=where,
            device=torch.device("cuda"),
        )
        pairs = zip(CELLS, [*CELLS[1:], None], strict=True)
        found[where] = [objective.losses(*pair) for pair in [*pairs, (CELLS[1], None)]]
    assert found["none"] == found[hosted]
