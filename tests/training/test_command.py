"""Several trainings in one launch."""

from __future__ import annotations

import logging
import signal

import pytest
import torch
import yaml

from lsengine.ranks import World
from lsengine.training.command import run_all

STUDY = {
    "name": "net-{train.batch_size}",
    "model": {"arch": "mlp", "args": {"hidden": [8]}},
    "data": {"dataset": "digits", "subset": 100},
    "train": {"output": "out/{train.batch_size}", "epochs": 2, "lr": 0.01},
    "matrix": {"train.batch_size": [16, 32, 50]},
    "threads": 1,
    "device": "cpu",
}


@pytest.fixture
def study(tmp_path):
    """A file of three jobs."""
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(STUDY))
    return path


@pytest.fixture
def spoilt(study):
    """The same, where the folder of the second job holds somebody else's checkpoint."""
    folder = study.parent / "out" / "32"
    folder.mkdir(parents=True)
    (folder / "epoch_001.pt").write_bytes(b"somebody else's")
    yield study
    assert (folder / "epoch_001.pt").read_bytes() == b"somebody else's"
    assert (study.parent / "out" / "16" / "epoch_002.pt").exists()
    assert (study.parent / "out" / "50" / "epoch_002.pt").exists()


def test_ranks_share_the_jobs_and_train_the_same_networks(tmp_path, study, pool):
    """Three jobs on two ranks give the checkpoints that three trainings alone give."""
    (tmp_path / "ranks").mkdir()
    shared = tmp_path / "ranks" / "study.yaml"
    shared.write_text(yaml.safe_dump(STUDY))
    assert run_all([study], world=World.alone(), progress="none") == 0
    assert pool.evaluate(shared, 2, command="train") == {"code": 0, "message": ""}
    for size in (16, 32, 50):
        states = [
            torch.load(folder / "out" / str(size) / "epoch_002.pt")["state_dict"]
            for folder in (tmp_path, tmp_path / "ranks")
        ]
        for name, tensor in states[0].items():
            assert torch.equal(tensor, states[1][name]), (size, name)


def test_one_training_that_cannot_be_done_spares_the_others(spoilt, pool):
    """A folder of another training fails its job only; all ranks leave with code 2."""
    assert pool.evaluate(spoilt, 2, command="train")["code"] == 2


def test_the_training_that_cannot_be_done_is_named(spoilt, caplog, monkeypatch):
    """Alone, the others are done too, and the code is the error's."""
    monkeypatch.setattr(logging.getLogger("lsengine"), "propagate", True)
    monkeypatch.setattr("lsengine.log.configure", lambda rank: None)
    with caplog.at_level(logging.ERROR, "lsengine"):
        assert run_all([spoilt], world=World.alone(), progress="none") == 2
    assert "net-32: train.output: " in caplog.text
    assert "epoch_001.pt, but no history.h5" in caplog.text


class _Pair(World):
    """Rank 0 of two, whose partner has nothing to say but goodbye."""

    def __init__(self):
        super().__init__(None, None, "none")
        self.size = 2

    def local_rank_and_size(self):
        """Both are on this host."""
        return 0, 2

    def lost(self):
        """Return the partner: it has died."""
        return frozenset({1})


def test_signals_are_the_callers_again_after_a_launch(study):
    """While ranks train a signal is a request; after it, Ctrl-C does what it did before."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    assert run_all([study], world=_Pair(), progress="none") == 75  # the partner is lost
    assert [signal.getsignal(number) for number in numbers] == before
