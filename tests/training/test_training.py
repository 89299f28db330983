"""Training of networks: checkpoints, history, and interruptions that change nothing."""

from __future__ import annotations

import errno
import json
import logging
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from lsengine import store
from lsengine.errors import EnvironmentUnfit, Stopped, SurfaceError, UsageError
from lsengine.models import checkpoint
from lsengine.store import lock
from lsengine.training import training
from tests.training.conftest import (
    FORK,
    MODULE,
    assert_same_training,
    folder,
    run,
)
from tests.training.test_resumable import stop_after


def test_a_training_leaves_its_checkpoints_and_its_history(make_job):
    """Files at the epochs asked for, nothing else but the history, rising accuracy."""
    loaded = make_job(save_epochs=[1], epochs=5)
    last = run(loaded)
    assert last == folder(loaded) / "epoch_005.pt"
    names = sorted(p.name for p in folder(loaded).iterdir())
    assert names == [*(f"epoch_00{e}.pt" for e in (0, 1, 2, 4, 5)), "history.h5"]
    found = store.read_history(folder(loaded) / "history.h5")
    assert found.finished
    assert found.columns["epoch"].tolist() == list(range(6))
    assert found.columns["train_loss"][-1] < found.columns["train_loss"][0]
    assert yaml.safe_load(found.attributes["job"])["name"] == "a"


def test_epochs_that_are_not_measured_change_nothing_but_the_history(make_job, monkeypatch):
    """Rows of every third epoch, the first and the last; also of a training that was stopped."""
    every, third = make_job(name="a", epochs=7), make_job(name="b", epochs=7, measure_every=3)
    run(every)
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        with pytest.raises(Stopped, match="in epoch 5 of 7"):
            run(third)
    found = store.read_history(folder(third) / "history.h5")
    assert found.columns["epoch"].tolist() == [0, 3]
    assert not found.finished
    run(third)
    found = store.read_history(folder(third) / "history.h5")
    assert found.columns["epoch"].tolist() == [0, 3, 6, 7]
    assert found.finished
    whole = store.read_history(folder(every) / "history.h5")
    for name, values in whole.columns.items():
        np.testing.assert_array_equal(found.columns[name], values[[0, 3, 6, 7]])
    np.testing.assert_array_equal(found.layer_norms, whole.layer_norms[[0, 3, 6, 7]])
    for epoch in (0, 2, 4, 6, 7):
        a, b = (checkpoint.load(folder(j) / f"epoch_00{epoch}.pt") for j in (every, third))
        for name, tensor in a.state.items():
            assert torch.equal(tensor, b.state[name])
        rest = {"learning_rate", "weight_norm"}
        assert (b.numbers.keys() == a.numbers.keys()) is (epoch in (0, 6, 7))
        assert rest <= b.numbers.keys()


def test_a_training_that_is_not_measured_still_says_that_it_diverged(make_job, caplog):
    """By the norm of its weights, at the first epoch after which they are not finite."""
    caplog.set_level(logging.WARNING, "lsengine")
    run(make_job(lr=1e30, epochs=4, measure_every=4))
    assert "epoch=1 weight_norm=nan: the training has diverged" in caplog.text
    assert caplog.text.count("diverged") == 1


def test_history_opens_in_xarray_with_named_coordinates(make_job):
    """Any netCDF reader sees curves over the epoch."""
    xarray = pytest.importorskip("xarray")
    loaded = make_job()
    run(loaded)
    with xarray.open_dataset(folder(loaded) / "history.h5", engine="h5netcdf") as found:
        assert found.train_loss.dims == ("epoch",)
        assert found.layer_norm.dims == ("epoch", "parameter")
        assert found.epoch.values.tolist() == [0, 1, 2, 3, 4]
        assert found.attrs["format"] == "lsengine-history"


def test_training_leaves_torch_as_it_was(make_job):
    """Generator, threads and signal handlers are the caller's again."""
    torch.manual_seed(5)
    expected, handler = torch.rand(3), signal.getsignal(signal.SIGTERM)
    threads = torch.get_num_threads()
    torch.manual_seed(5)
    run(make_job(epochs=1))
    assert torch.equal(torch.rand(3), expected)
    assert signal.getsignal(signal.SIGTERM) is handler
    assert torch.get_num_threads() == threads


def test_a_finished_training_is_left_alone(make_job, caplog):
    """A second run says so and writes nothing, even without reading the data."""
    loaded = make_job(epochs=1)
    run(loaded)
    before = {p: p.stat().st_mtime_ns for p in folder(loaded).iterdir()}
    with caplog.at_level(logging.INFO, "lsengine"):
        logging.getLogger("lsengine").propagate = True
        assert run(loaded) == folder(loaded) / "epoch_001.pt"
    assert "nothing to do" in caplog.text
    assert {p: p.stat().st_mtime_ns for p in folder(loaded).iterdir()} == before


def test_a_checkpoint_that_was_removed_comes_back(make_job):
    """A finished training that lacks a file is done again, with the same result."""
    loaded, other = make_job(name="a"), make_job(name="b")
    run(loaded), run(other)
    (folder(loaded) / "epoch_002.pt").unlink()
    run(loaded)
    assert_same_training(loaded, other)


def test_foreign_folders_and_files_are_refused(make_job):
    """Checkpoints without a history, and a history of something else, stay as they are."""
    loaded = make_job()
    folder(loaded).mkdir(parents=True)
    (folder(loaded) / "epoch_300.pt").write_text("precious")
    with pytest.raises(UsageError, match=r"holds epoch_300\.pt, but no history\.h5"):
        run(loaded)
    (folder(loaded) / "history.h5").write_text("not HDF5")
    with pytest.raises(UsageError, match=r"history\.h5: not a readable HDF5 file"):
        run(loaded)
    assert (folder(loaded) / "epoch_300.pt").read_text() == "precious"


def test_two_trainings_do_not_share_a_folder(make_job):
    """While one process trains, another is refused with the code of a locked file."""
    loaded = make_job()
    folder(loaded).mkdir(parents=True)
    held, released = FORK.Event(), FORK.Event()

    def hold():
        with lock.held(folder(loaded) / "history.h5", lost=lambda: None):
            held.set()
            released.wait(60)

    other = FORK.Process(target=hold)
    other.start()
    assert held.wait(60)
    with pytest.raises(SurfaceError, match="locked by process"):
        run(loaded)
    released.set()
    other.join()
    assert not lock.lock_path(folder(loaded) / "history.h5").exists()
    run(loaded)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"save_epochs": [5]}, "train.save_epochs: got 5; train.epochs is 4"),
        ({"dataset": {"dataset": "digits", "splits": ["test"]}}, "needs the train split"),
        ({"model": {"arch": "trainee:frozen"}}, "no trainable parameters"),
        ({"model": {"arch": "trainee:narrow"}}, "outputs have shape .4.*need 10"),
        ({"dataset": {"dataset": "digits", "subset": 1}}, "two or more samples"),
    ],
    ids=lambda v: str(v)[:30],
)
def test_a_job_that_cannot_be_trained_is_refused_before_anything_is_written(
    tmp_path, make_job, settings, said
):
    """One message with the key; the folder holds nothing."""
    (tmp_path / "trainee.py").write_text(MODULE)
    loaded = make_job(**settings)
    with pytest.raises(UsageError, match=said):
        run(loaded)
    assert not list(folder(loaded).glob("*"))


def test_a_diverged_training_ends_and_warns(make_job, caplog):
    """NaN is recorded as it is, once with advice."""
    with caplog.at_level(logging.WARNING, "lsengine"):
        logging.getLogger("lsengine").propagate = True
        loaded = make_job(lr=1e6, epochs=6, milestones=[])
        run(loaded)
    losses = store.read_history(folder(loaded) / "history.h5").columns["train_loss"]
    assert not np.isfinite(losses[-1])
    assert caplog.text.count("lower train.lr") == 1


@pytest.mark.parametrize("style", ["lines", "bar"])
def test_progress_is_shown(make_job, caplog, capsys, style):
    """A line with the measurements, or a bar."""
    with caplog.at_level(logging.INFO, "lsengine"):
        logging.getLogger("lsengine").propagate = True
        training.run(make_job(epochs=2), progress=style)
    text = caplog.text + capsys.readouterr().err
    assert "test_error=" in text
    assert "2/2" in text


def test_the_loss_of_the_batches_is_shown(make_job, caplog):
    """Of one batch for all samples it is the loss before the step, which is measured here, too."""
    loaded = make_job(epochs=3, batch_size=200, noise=0.0)
    with caplog.at_level(logging.INFO, "lsengine"):
        logging.getLogger("lsengine").propagate = True
        training.run(loaded, progress="lines")
    shown = float(re.findall(r"epoch=3/3 .*batch_loss=(\S+)", caplog.text)[0])
    measured = store.read_history(folder(loaded) / "history.h5").columns["train_loss"]
    assert shown == pytest.approx(measured[2], rel=1e-3)
    assert shown != pytest.approx(measured[3], rel=1e-3)


def test_the_history_knows_its_recipe(make_job):
    """Its attributes hold what decides the result, and no paths among it."""
    loaded = make_job()
    run(loaded)
    found = json.loads(store.read_history(folder(loaded) / "history.h5").attributes["recipe"])
    assert found["train"]["lr"] == 0.05
    assert "output" not in found["train"]
    assert "root" not in found["data"]


def test_a_folder_that_cannot_be_made_is_said_with_its_key(make_job, monkeypatch):
    """As everywhere, it is the environment that is at fault."""
    loaded = make_job()

    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(EnvironmentUnfit, match=r"train\.output: .*/out/a cannot be made"):
        run(loaded)
