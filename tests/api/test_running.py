"""Tasks of this process: the folder of checkpoints, and the words of errors."""

from __future__ import annotations

import os
import signal
import tempfile

import pytest
import torch
from torch import nn

import lsengine
from lsengine.api.running import reworded
from lsengine.errors import JobError, Stopped, SurfaceError, UsageError
from tests.support.memory import network, samples


class Signals(nn.Module):
    """Sends its process a signal after some batches."""

    number: int | None = None

    def __init__(self):
        super().__init__()
        self.net, self.calls = network(), 0

    def forward(self, x):
        """Return the outputs."""
        self.calls += 1
        if self.calls == 30 and self.number is not None:
            os.kill(os.getpid(), self.number)
        return self.net(x)


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Stopped)]
)
def test_a_signal_ends_it_and_the_same_call_goes_on(tmp_path, monkeypatch, number, error):
    """What is written is written; the folder of checkpoints is gone."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    call = {
        "grid": 9,
        "progress": False,
        "output": tmp_path / "x.h5",
        "batch_size": 16,
        "threads": 1,
    }
    monkeypatch.setattr(Signals, "number", number)
    with pytest.raises(error, match="the same call goes on"):
        lsengine.evaluate(Signals(), samples(), **call)
    assert not list(tmp_path.glob(".lsengine-*"))  # torch may have a folder of its own
    assert 0 < lsengine.open(tmp_path / "x.h5").counts()["done"] < 81
    with pytest.raises(error, match="; without output nothing is kept"):
        lsengine.evaluate(Signals(), samples(), **{**call, "output": None})
    monkeypatch.setattr(Signals, "number", None)
    surface = lsengine.evaluate(Signals(), samples(), **call)
    assert surface.counts()["done"] == 81
    whole = lsengine.evaluate(Signals(), samples(), **{**call, "output": None})
    assert torch.equal(
        torch.tensor(surface.quantities["train_loss"]), torch.tensor(whole.quantities["train_loss"])
    )
    assert whole.source == "Signals"


def test_errors_speak_of_arguments():
    """Not of keys and options that a caller did not write."""
    for error, words in (
        (UsageError("model.arch: memory:model returned x"), "model: model returned x"),
        (UsageError("data.dataset: memory:data: train: is empty"), "data: train: is empty"),
        (SurfaceError("the same command goes on"), "the same call goes on"),
        (UsageError("directions.beta.checkpoint: /tmp/.l-x/toward-beta.pt is"), "toward: it is"),
        (
            SurfaceError("with --extend a.h5; or without --extend"),
            "with extend=a.h5; or without extend",
        ),
    ):
        assert str(reworded(error)) == words
    assert reworded(JobError("a", ["b"])).problems == ("b",)
