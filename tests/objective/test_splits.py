"""Splits of a run: the same bytes wherever the inputs are."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lsengine import data, devices
from lsengine.curvature import LanczosOptions
from lsengine.curvature.cells import NAMES
from lsengine.data.nesting import leaves
from lsengine.objective import EvaluationSettings, Objective, splits
from lsengine.objective.losses import loss_function
from lsengine.objective.residence import RESIDENCES
from lsengine.objective.splits import ResidentSplit, resident_splits
from lsengine.surface.grid import Cell

CPU = torch.device("cpu")
COUNT, CELL = 23, Cell(0.5, -0.25)
MEAN, STD = [0.4914, 0.4822, 0.4465], [0.247, 0.2435, 0.2616]


def _dataset(kind="bytes", channels=3):
    """Return two splits of small images or other inputs of every kind of number."""
    generator = torch.Generator().manual_seed(0)
    shape = (COUNT, channels, 6, 5)
    x = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    mean, std = torch.tensor(MEAN[:channels]).double(), torch.tensor(STD[:channels]).double()
    if kind == "floats":
        x = torch.randn(shape, generator=generator)
    elif kind == "tokens":
        x, mean, std = x.flatten(1)[:, :4].long(), None, None
    elif kind == "complex":
        x = torch.randn(shape, generator=generator, dtype=torch.complex64)
    elif kind == "nested":
        x, mean, std = {"ids": x.flatten(1)[:, :4].long(), "pair": (x.float(), x > 99)}, None, None
    y = torch.arange(COUNT) % 4
    of = {"train": data.Split(x, y)}
    of["test"] = of["train"].part(torch.arange(8, -1, -1))
    return data.Dataset(splits=of, mean=mean, std=std, classes=4)


def _settings(precision="float32", device=CPU, **more):
    return EvaluationSettings(device=device, precision=precision, batch_size=7, **more)


def _network(channels=3):
    torch.manual_seed(3)
    first = nn.Conv2d(channels, 8, 3, stride=2, padding=1, bias=False)
    return nn.Sequential(first, nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(72, 4)).eval()


def _objective(settings, dataset):
    network = _network(dataset.channels)
    directions = {
        axis: {n: torch.randn(p.shape) for n, p in network.named_parameters() if p.ndim > 1}
        for axis in ("alpha", "beta")
    }
    loss = loss_function("cross_entropy", job_folder=Path())
    return Objective(copy.deepcopy(network), dataset, loss, directions, settings)


def _same(found, expected):
    """Whether two tensors, or nestings, are the same to the bit, laid out in the same way."""
    if not isinstance(found, torch.Tensor):
        pairs = zip(leaves(found), leaves(expected), strict=True)
        return all(a == b and _same(x, y) for (a, x), (b, y) in pairs)
    equal = torch.equal(found.cpu(), expected.cpu())
    return equal and found.dtype == expected.dtype and found.stride() == expected.stride()


@pytest.mark.parametrize("precision", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("kind", ["bytes", "floats", "tokens", "complex", "nested"])
@pytest.mark.parametrize("last", [True, False])
def test_the_network_reads_the_same_wherever_inputs_are(precision, kind, last):
    """Values, types and layout of every batch, of exact ones and of single samples."""
    for channels in (1, 3):
        dataset = _dataset(kind, channels)
        settings = _settings(precision, channels_last=last)
        ready = ResidentSplit(dataset, "train", settings)
        for where in RESIDENCES[1:]:
            split = ResidentSplit(dataset, "train", settings, where)
            for size in (7, 1):
                for each in (split, ready):
                    each.cut(size)
                assert all(map(_same, split.inputs, ready.inputs))
                assert all(map(_same, split.exact_inputs(), ready.exact_inputs()))
            for exact in (True, False):
                assert _same(split.samples([4, 1], exact)[0], ready.samples([4, 1], exact)[0])


@pytest.mark.parametrize("where", RESIDENCES)
def test_bytes_are_normalised_by_the_book(where):
    """Divided, shifted, divided again, each rounded to float32, in a loop over channels."""
    dataset = _dataset()
    split = ResidentSplit(dataset, "train", _settings(residence=where), where)
    found = torch.cat(list(split.inputs)).numpy()
    raw = dataset.splits["train"].x.numpy()
    for channel, (mean, std) in enumerate(zip(MEAN, STD, strict=True)):
        scaled = raw[:, channel].astype(np.float32) / np.float32(255)
        expected = (scaled - np.float32(mean)) / np.float32(std)
        np.testing.assert_array_equal(found[:, channel], expected)


def test_blocks_change_nothing(monkeypatch):
    """Inputs that are made ready a few at a time are those that are made ready at once."""
    for kind in ("bytes", "floats"):
        for last in (True, False):
            settings = _settings("bfloat16", channels_last=last)
            whole = list(ResidentSplit(_dataset(kind), "train", settings).inputs)
            with monkeypatch.context() as patch:
                patch.setattr(splits, "_BLOCK", 1000)
                parts = list(ResidentSplit(_dataset(kind), "train", settings).inputs)
            assert all(map(_same, parts, whole))


CURVED = LanczosOptions(max_products=3, basis=4)


@pytest.mark.parametrize("precision", ["float32", "float64", "bfloat16"])
def test_cells_have_the_same_bytes_wherever_inputs_are(precision):
    """Losses, their exact ones, accuracies and eigenvalues; also after memory has run out."""
    dataset, found = _dataset(), []
    for where in RESIDENCES:
        settings = _settings(precision, residence=where, curvature=CURVED)
        torch.manual_seed(0)
        objective = _objective(settings, dataset)
        values = [objective.evaluate(CELL), objective.exact_losses(CELL)]
        pieces = objective.values_of_samples({"train": [3, 20]}, CELL)["train"]
        for split in objective._splits.values():
            split.cut(2)
        values.append(objective.losses(CELL))
        found.append((values, [piece.tolist() for piece in pieces[:2]]))
    assert found[0][0][0].keys() >= {"train_loss", "test_accuracy", *NAMES}
    assert all(repr(values) == repr(found[0]) for values in found)


def test_little_memory_sends_inputs_elsewhere(monkeypatch):
    """By arithmetic on what is free, after what else is to come, and said in words."""
    dataset = _dataset()
    mapped = replace(
        dataset,
        splits={n: data.Split(s.x, s.y, is_mapped=True) for n, s in dataset.splits.items()},
    )
    raw = sum(split.x.nbytes for split in dataset.splits.values())
    cases = [
        (dataset, 8 * raw, 0, "ready"),
        (dataset, 8 * raw, 1, "raw"),
        (mapped, 8 * raw - 1, 0, "raw"),
        (mapped, 2 * raw - 1, 0, "file"),
    ]
    for content, free, others, expected in cases:
        monkeypatch.setattr(devices, "free_bytes", lambda device, free=free: free)
        made, said = resident_splits(content, _settings(), others)
        assert said.startswith(f"{expected} for cpu: 0.0 MiB as stored")
        assert all(split._where == expected for split in made.values())
    monkeypatch.setattr(devices, "free_bytes", lambda device: 16 * raw)
    for peers, expected in ((2, "ready"), (3, "raw")):
        said = resident_splits(dataset, _settings(peers=peers))[1]
        assert said.startswith(f"{expected} for cpu")
    both = splits._inputs(dataset, _settings("bfloat16", curvature=CURVED))
    assert (both.ready, both.raw) == ((2 + 4) * raw, raw)
    assert splits._inputs(_dataset("tokens"), _settings("bfloat16")).ready == (COUNT + 9) * 4 * 8


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("precision", ["float32", "float64", "bfloat16", "float16"])
def test_streaming_has_the_bytes_of_resident_data_on_a_card(precision):
    """Inputs of every place are the CPU's to the bit, and losses are those of resident inputs."""
    card, dataset, found = torch.device("cuda"), _dataset(), []
    here = ResidentSplit(dataset, "train", _settings(precision))
    for where in RESIDENCES:
        there = ResidentSplit(dataset, "train", _settings(precision, card), where)
        for _ in range(3):
            assert all(map(_same, there.inputs, here.inputs))
            assert all(map(_same, there.exact_inputs(), here.exact_inputs()))
        torch.manual_seed(0)
        objective = _objective(_settings(precision, card, residence=where), dataset)
        values = [objective.losses(CELL), objective.exact_losses(CELL), objective.losses(CELL)]
        found.append(repr(values))
    assert len(set(found)) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_copies_wait_for_the_network_on_a_card():
    """Batches of 8 MiB between slow products: what was read is what was sent, in every batch."""
    card = torch.device("cuda")
    x = torch.arange(64, dtype=torch.uint8).reshape(64, 1, 1, 1).expand(-1, 1, 1024, 1024)
    split = data.Split(x.contiguous(), torch.zeros(64, dtype=torch.long))
    dataset = data.Dataset(splits={"train": split}, mean=None, std=None, classes=2)
    settings = replace(_settings(device=card), batch_size=8)
    work = torch.randn(4096, 4096, device=card)
    for where in ("host", "file"):
        sums = []
        for inputs in ResidentSplit(dataset, "train", settings, where).inputs:
            for _ in range(4):
                work @ work
            sums.append(inputs.double().mean((1, 2, 3)))
        expected = torch.arange(64, dtype=torch.float32) / 255
        assert torch.cat(sums).cpu().tolist() == pytest.approx(expected.tolist(), rel=1e-12)
