"""One card: values of every precision, the same bytes whoever computes them, and little memory."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lsengine import data
from lsengine.objective import EvaluationSettings, Objective
from lsengine.objective.losses import loss_function
from lsengine.surface.grid import Cell
from tests.support import networks
from tests.support.jobs import values, write_job
from tests.support.launchers import BIN, ROOT, launcher_environment
from tests.support.objectives import CELLS, filter_normalized, naive
from tests.support.surfaces import edited

DEVICE = "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
MPIRUN = shutil.which("mpirun", path=os.pathsep.join([str(BIN), os.environ.get("PATH", "")]))


def _images(count, side=32):
    generator = torch.Generator().manual_seed(3)
    x = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)
    y = torch.randint(0, 10, (count,), generator=generator)
    mean, std = torch.full((2, 3), 0.5, dtype=torch.float64)
    return data.Dataset(splits={"train": data.Split(x, y)}, mean=mean, std=std, classes=10)


def _network(arch):
    torch.manual_seed(1)
    network = networks.build(arch)
    with torch.no_grad():
        network.train()(torch.randn(64, 3, 32, 32))  # running statistics that fit
    return network.eval()


def _objective(network, dataset, directions, precision, batch_size):
    settings = EvaluationSettings(
        device=torch.device(DEVICE), precision=precision, batch_size=batch_size
    )
    loss = loss_function("cross_entropy", job_folder=Path())
    return Objective(copy.deepcopy(network), dataset, loss, directions, settings)


@pytest.mark.parametrize("arch", ["resnet20", "resnet20_noshort", "vgg9", "mlp"])
def test_losses_are_those_of_a_float64_loop(arch):
    """In every precision, batches of unequal size included; the error is that of its numbers."""
    network, dataset = _network(arch), _images(24)
    directions = filter_normalized(network)
    exact = [naive(network, dataset, directions, cell) for cell in CELLS]
    allowed = {"float64": 1e-10, "float32": 1e-5, "tf32": 1e-2, "float16": 1e-2, "bfloat16": 0.1}
    for precision, tolerance in allowed.items():
        objective = _objective(network, dataset, directions, precision, 16)
        for cell, expected in zip(CELLS, exact, strict=True):
            found = objective.losses(cell)["train_loss"]
            assert found == pytest.approx(expected["train_loss"], rel=tolerance), (precision, cell)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_batch_that_does_not_fit_is_halved(precision):
    """The card's own refusal, not a made-up one; the values are those of smaller batches."""
    network, dataset = _network("resnet20"), _images(16_384)
    directions = filter_normalized(network)
    small = _objective(network, dataset, directions, precision, 256).losses(CELLS[1])
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    room = torch.cuda.memory_reserved() + 2**30
    torch.cuda.set_per_process_memory_fraction(min(1.0, room / total))
    try:
        objective = _objective(network, dataset, directions, precision, 16_384)
        found = objective.losses(CELLS[1])
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert objective.batch_size < 16_384
    allowed = {"float32": 1e-5, "float16": 1e-3}[precision]
    assert found["train_loss"] == pytest.approx(small["train_loss"], rel=allowed)


def _job(folder, name, precision):
    network = _network("resnet20")
    if not (folder / "network.pt").exists():
        torch.save({"state_dict": network.state_dict()}, folder / "network.pt")
        split = _images(256).splits["train"]
        np.savez(folder / "images.npz", x_train=split.x.numpy(), y_train=split.y.numpy())
    return write_job(
        folder,
        name,
        model={"arch": "resnet20", "checkpoint": "network.pt"},
        data={"dataset": "arrays", "root": "images.npz", "splits": ["train"]},
        grid={"alpha": [-1, 1, 5], "beta": [-1, 1, 4]},
        precision=precision,
        batch_size=128,
        device=DEVICE,
    )


def _run(ranks, *arguments):
    """Run a command of this checkout, which need not be installed."""
    if ranks > 1 and MPIRUN is None:
        pytest.skip("there is no mpirun")
    launcher = [MPIRUN, "-n", str(ranks)] if ranks > 1 else []
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    done = subprocess.run(
        [*launcher, sys.executable, "-m", "lsengine", *map(str, arguments)],
        env=launcher_environment(PYTHONPATH=paths),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def _forget_half(surface):
    with edited(surface) as file:
        status, losses = file["status"][...], file["train_loss"][...]
        missing = np.arange(status.size).reshape(status.shape) % 2 == 1
        status[missing], losses[missing] = 0, -1
        file["status"][...], file["train_loss"][...] = status, losses


def test_bytes_depend_neither_on_ranks_nor_on_a_stop(tmp_path):
    """One process, one that goes on at half, and three workers on the card, told of it once."""
    alone, shared = (_job(tmp_path, name, "bfloat16") for name in ("alone", "shared"))
    _run(1, "eval", alone)
    surface = alone.with_suffix(".h5")
    expected = values(surface)
    _forget_half(surface)
    _run(1, "eval", alone)
    assert values(surface) == expected
    said = _run(4, "eval", shared)
    assert values(shared.with_suffix(".h5")) == expected
    if torch.cuda.device_count() == 1:
        assert said.count("share one card") == 1


def test_the_doctor_tries_the_card(tmp_path):
    """It names the card, whose products are right."""
    said = _run(1, "doctor", "-o", tmp_path)
    (line,) = [line for line in said.splitlines() if line.split()[1:2] == ["device"]]
    assert line.startswith("ok")
    assert torch.cuda.get_device_name(0) in line


def test_the_centre_has_the_same_bytes_whatever_came_before(tmp_path):
    """Of two objectives one has been elsewhere."""
    network, dataset = _network("resnet20"), _images(300)
    directions = filter_normalized(network)
    for precision in ("float32", "tf32", "float16", "bfloat16"):
        first, second = (_objective(network, dataset, directions, precision, 128) for _ in range(2))
        for cell in CELLS:
            second.losses(cell)
        assert first.losses(Cell(0.0)) == second.losses(Cell(0.0)), precision
