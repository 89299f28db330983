"""Trainings in bfloat16: which may have it, what they compute, and that they repeat themselves."""

from __future__ import annotations

import copy
import logging
from pathlib import Path

import pytest
import torch

from lsengine import data, models, store
from lsengine.devices import device as devices
from lsengine.errors import Stopped, UsageError
from lsengine.models import checkpoint
from lsengine.training import autocast, recipe
from tests.training.conftest import RESNET, assert_same_training, folder, run
from tests.training.test_resumable import stop_after

CPU = torch.device("cpu")


def settled(loaded):
    """What a training's history says of its precision."""
    return store.read_history(folder(loaded) / "history.h5").attributes["precision"]


@pytest.fixture
def hardware(monkeypatch):
    """Decide whether this processor is said to multiply bfloat16."""

    def decide(is_there):
        monkeypatch.setattr(devices, "fast_precisions", lambda _: ("bfloat16",) * is_there)

    return decide


@pytest.mark.parametrize(
    ("asked", "earlier", "has", "obstacle", "found"),
    [
        ("auto", None, True, "", "bfloat16"),
        ("auto", None, False, "", "float32"),
        ("auto", None, True, "of it", "float32"),
        ("auto", "float32", True, "", "float32"),
        ("auto", "bfloat16", False, "", "bfloat16"),
        ("bfloat16", None, False, "", "bfloat16"),
        ("bfloat16", None, True, "of it", "cannot be used: of it; use float32"),
        ("auto", "bfloat16", True, "of it", "cannot be used: of it; use float32"),
    ],
)
def test_the_hardware_decides_once(hardware, caplog, asked, earlier, has, obstacle, found):
    """A table of what is asked, settled, there and in the way; slow products are warned of."""
    hardware(has)
    caplog.set_level(logging.WARNING, "lsengine")
    if " " in found:
        with pytest.raises(UsageError, match=found):
            autocast.settle(asked, earlier, CPU, obstacle, lambda: None)
        return
    assert autocast.settle(asked, earlier, CPU, obstacle, lambda: None) == found
    assert ("no instructions" in caplog.text) is (found == "bfloat16" and not has)


def test_training_takes_the_steps_of_a_plain_loop_with_autocast(make_job, hardware):
    """Statistics, too, come out bit for bit; measured losses are in float32."""
    hardware(True)
    loaded = make_job(model=RESNET, precision="auto", noise=0.0, epochs=2, save_every=1)
    run(loaded)
    assert settled(loaded) == "bfloat16"
    settings = loaded.document.train
    digits = data.load(loaded.document.data, root=None, job_folder=Path(), seed=0)
    network = models.build(
        loaded.document.model, channels=1, classes=10, size=(8, 8), job_folder=Path()
    )
    checkpoint.fit(network, checkpoint.load(folder(loaded) / "epoch_000.pt"), key="x")
    x, y = data.normalized(digits, "train", torch.float32), digits.splits["train"].y
    optimizer = torch.optim.SGD(
        network.parameters(), 0.05, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True
    )
    for epoch, rate in ((1, 0.05), (2, 0.005)):
        optimizer.param_groups[0]["lr"] = rate
        network.train()
        generator = recipe.generator_of(0, f"epoch {epoch}")
        for chosen in torch.randperm(len(y), generator=generator).split(settings.batch_size):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                logits = network(x[chosen])
            assert logits.dtype == torch.bfloat16
            torch.nn.functional.cross_entropy(logits.float(), y[chosen]).backward()
            optimizer.step()
        saved = checkpoint.load(folder(loaded) / f"epoch_00{epoch}.pt")
        for name, tensor in network.state_dict().items():
            torch.testing.assert_close(saved.state[name], tensor, rtol=1e-6, atol=1e-7)
        exact = copy.deepcopy(network).double().eval()
        with torch.no_grad():
            loss = torch.nn.functional.cross_entropy(exact(x.double()), y).item()
        assert saved.numbers["train_loss"] == pytest.approx(loss, rel=1e-5)


WIDE = {"arch": "resnet20", "args": {"width": 16}}  # its filters are channels-last


@pytest.mark.parametrize(
    "settings",
    [
        {"precision": "auto", "model": RESNET, "crop": 1, "measure_every": 3},
        {"precision": "bfloat16", "model": WIDE},
        {"precision": "bfloat16", "model": WIDE, "optimizer": "adamw"},
    ],
    ids=lambda s: s["precision"],
)
def test_a_stop_changes_nothing_not_even_on_another_machine(
    make_job, monkeypatch, hardware, settings
):
    """It goes on in the precision that it was begun with."""
    hardware(True)
    one, other = make_job(name="a", **settings), make_job(name="b", **settings)
    run(other)
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(Stopped):
            run(one)
    hardware(False)
    run(one)
    assert settled(one) == "bfloat16"
    assert_same_training(one, other)


def test_auto_without_hardware_is_float32_bit_for_bit(make_job, monkeypatch, hardware):
    """It stays so when it goes on where there is hardware."""
    one, other = make_job(name="a", precision="auto"), make_job(name="b")
    run(other)
    hardware(False)
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(Stopped):
            run(one)
    hardware(True)
    run(one)
    assert settled(one) == settled(other) == "float32"
    assert_same_training(one, other)


OWN = """
import torch
from torch import nn
class Stubborn(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.linear = nn.Linear(64, 16), nn.Linear(16, 10)
    def forward(self, x):
        x = self.first(x.flatten(1))
        if x.dtype != torch.float32:
            raise TypeError("float32 alone")
        return self.linear(x)
def double():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).double()
"""


@pytest.mark.parametrize(
    ("arch", "said"),
    [("Stubborn", "the network does not run with it .*float32 alone"), ("double", "float64")],
)
def test_networks_that_cannot_have_it_say_why(tmp_path, make_job, hardware, arch, said):
    """They are refused before anything is written; with auto they are trained in float32."""
    hardware(True)
    (tmp_path / "stubborn_net.py").write_text(OWN)
    settings = {"model": {"arch": f"stubborn_net:{arch}"}, "epochs": 1}
    loaded = make_job(precision="bfloat16", **settings)
    with pytest.raises(UsageError, match=f"train.precision: bfloat16 cannot be used: .*{said}"):
        run(loaded)
    assert not (folder(loaded) / "history.h5").exists()
    loaded = make_job(name="b", precision="auto", **settings)
    run(loaded)
    assert settled(loaded) == "float32"
