"""Several trainings in one launch."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
from contextlib import contextmanager

import pytest
import torch
import yaml

from lsengine import job
from lsengine.errors import SurfaceError, UsageError
from lsengine.ranks import World
from lsengine.store import lock
from lsengine.training.command import Queue, run_all
from tests.support import trainings
from tests.support.kills import rank_processes
from tests.support.launchers import BIN, launcher_environment, run_alone

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
    monkeypatch.setattr("lsengine.log.configure", lambda rank, speaks: None)
    with caplog.at_level(logging.ERROR, "lsengine"):
        assert run_all([spoilt], world=World.alone(), progress="none") == 2
    assert "train.output: " in caplog.text
    assert "2 of 3 networks are trained; not net-32" in caplog.text
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
    assert run_all([study], world=_Pair(), progress="none") == 0  # the partner is lost, no network
    assert [signal.getsignal(number) for number in numbers] == before


@contextmanager
def held(study, size):
    """Hold the lock of one of the trainings, as another run does."""
    folder = study.parent / "out" / str(size)
    folder.mkdir(parents=True, exist_ok=True)
    with lock.held(folder / "history.h5", lost=lambda: None):
        yield


def test_a_queue_gives_each_out_in_order_and_what_is_locked_last(study):
    """Once more, and not a third time; the code is the largest."""
    queue = Queue(job.load_all(study, command="train"))
    with held(study, 16):
        assert queue.take() == 1
        queue.report(1, None)
        assert queue.take() == 2
        with held(study, 50):  # another run was a moment faster
            queue.report(2, SurfaceError("locked"))
            assert [queue.take() for _ in range(3)] == [0, 2, None]
            queue.report(2, SurfaceError("locked"))
    queue.report(0, UsageError("no"))
    assert (queue.take(), queue.conclude()) == (None, 4)


def test_what_is_not_begun_is_worth_another_start(study):
    """Nothing is given out any more after a stop."""
    queue = Queue(job.load_all(study, command="train"))
    queue.report(queue.take(), None)
    queue.close()
    assert (queue.take(), queue.conclude()) == (None, 75)


def test_a_network_that_another_run_trains_comes_last(study, caplog, monkeypatch):
    """In one process, too: the others are trained before it is refused."""
    monkeypatch.setattr(logging.getLogger("lsengine"), "propagate", True)
    monkeypatch.setattr("lsengine.log.configure", lambda rank, speaks: None)
    with caplog.at_level(logging.INFO, "lsengine"), held(study, 16):
        assert run_all([study], world=World.alone(), progress="none") == 4
    assert (study.parent / "out" / "50" / "epoch_002.pt").exists()
    assert "another run trains it just now" in caplog.text
    assert f"locked by process {os.getpid()}" in caplog.text
    assert "2 of 3 networks are trained; not net-16" in caplog.text
    assert run_all([study], world=World.alone(), progress="none") == 0


@contextmanager
def launched(path, *more):
    """Start a training on two ranks; end it if it has not ended when the context is left."""
    command = [str(BIN / "mpirun"), *more, "-n", "2", str(BIN / "lsengine"), "train", str(path)]
    process = subprocess.Popen(
        command, env=launcher_environment(), stderr=subprocess.PIPE, text=True
    )
    with process:
        try:
            yield process
        finally:
            for rank in rank_processes(process.pid):
                os.kill(rank, signal.SIGKILL)
            process.kill()


@pytest.mark.parametrize("place", [0, 1])
def test_a_rank_that_is_done_takes_the_next_network(tmp_path, place):
    """One rank has a network that ends after all others: the other rank trains them meanwhile.

    Rank 0 hands them out between the batches of its own.
    """
    names = ["a", "b", "c"]
    names.insert(place, "slow")
    awaited = f"out/{names[-1]}/epoch_002.pt"
    recipe = {"epochs": 200, "save_epochs": [2]} if place == 0 else {}
    path = trainings.study(tmp_path / "x", *names, awaited=awaited, naps=place == 0, **recipe)
    with launched(path) as process:
        said = process.communicate(timeout=200)[1]
    assert process.returncode == 0, said
    ends = re.findall(r"r00(\d) .* net-(\w+): epoch=(?:2/2|200/200) ", said)
    expected = {name: place if name == "slow" else 1 - place for name in names}
    assert {name: int(rank) for rank, name in ends} == expected, said


def test_a_dead_rank_costs_its_network_alone(tmp_path):
    """Where the launcher lets the others live they train all others; the same command goes on."""
    path = trainings.study(tmp_path / "x", "a", "slow", "c", "d")
    with launched(path, "--with-ft", "ulfm") as process:
        trainings.until(lambda: trainings.weights(path).keys() == {"a", "c", "d"})
        os.kill(rank_processes(process.pid)[1], signal.SIGKILL)
        said = process.communicate(timeout=200)[1]
    assert process.returncode == 75, said
    assert "ERROR net-slow: rank 1, which trained it, has died" in said
    assert "3 of 4 networks are trained; not net-slow" in said
    (path.parent / "go").touch()
    assert run_alone(["train", str(path), "--quiet"]).returncode == 0
    assert trainings.weights(path).keys() == {"a", "slow", "c", "d"}


def test_a_stop_ends_all_ranks_and_nothing_is_begun(tmp_path):
    """Each ends between two batches; the code is that of what goes on."""
    path = trainings.study(tmp_path / "x", "slow-a", "slow-b", "c", naps=True, epochs=1000)
    states = [path.parent / "out" / name / "resume.pt" for name in ("slow-a", "slow-b")]
    with launched(path) as process:
        trainings.until(lambda: all(state.exists() for state in states))
        process.send_signal(signal.SIGUSR1)  # which mpirun passes on
        said = process.communicate(timeout=200)[1]
    assert process.returncode == 75, said
    assert said.count("stopped by SIGUSR1 in epoch") == 2, said
    assert "0 of 3 networks are trained" in said
    assert not (path.parent / "out" / "c").exists()
