"""Training of networks: checkpoints, history, and interruptions that change nothing."""

from __future__ import annotations

import errno
import json
import logging
import math
import multiprocessing
import os
import random
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from lsengine import data, job, models, store
from lsengine.errors import EnvironmentUnfit, Stopped, SurfaceError, UsageError
from lsengine.models import checkpoint
from lsengine.store import lock
from lsengine.surface.records import History
from lsengine.training import recipe, resumable, training

TINY = {"arch": "mlp", "args": {"hidden": [16]}}
RESNET = {"arch": "resnet20", "args": {"width": 2}}
FORK = multiprocessing.get_context("fork")  # a process that need not import torch anew
BASE = {"epochs": 4, "save_every": 2, "lr": 0.05, "batch_size": 32, "noise": 0.1}


def write(where, name, *, model=TINY, dataset=None, **settings):
    """Write and load a job that trains on 200 digits."""
    content = {
        "model": model,
        "data": dataset or {"dataset": "digits", "subset": 200},
        "threads": 1,
        "device": "cpu",
        "train": {"output": f"out/{name}", **BASE, **settings},
    }
    path = where / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content))
    return job.load(path, command="train")


@pytest.fixture
def make_job(tmp_path):
    """Write and load a job in the test's folder."""
    return lambda *, name="a", **settings: write(tmp_path, name, **settings)


@pytest.fixture(autouse=True)
def _every_epoch(monkeypatch):
    """Keep the state of every epoch, so that short trainings can be resumed too."""
    monkeypatch.setattr(resumable, "_SAVE_EVERY_S", 0.0)


def run(loaded):
    """Train quietly."""
    return training.run(loaded, progress="none")


def folder(loaded):
    """Where a job's training goes."""
    return loaded.path(loaded.document.train.output)


def assert_same_training(one, other):
    """Checkpoints and history are equal bit for bit."""
    names = sorted(p.name for p in folder(one).glob("epoch_*.pt"))
    assert names == sorted(p.name for p in folder(other).glob("epoch_*.pt"))
    for name in names:
        a, b = (checkpoint.load(folder(j) / name) for j in (one, other))
        assert a.sha256 == b.sha256, name
    a, b = (store.read_history(folder(j) / "history.h5") for j in (one, other))
    for name, values in a.columns.items():
        np.testing.assert_array_equal(values, b.columns[name])
    np.testing.assert_array_equal(a.layer_norms, b.layer_norms)


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


def test_history_agrees_with_the_checkpoints(make_job):
    """Losses, errors and norms are those of the checkpoint's network, computed naively."""
    loaded = make_job(model=RESNET)
    run(loaded)
    found = store.read_history(folder(loaded) / "history.h5")
    digits = data.load(loaded.document.data, root=None, job_folder=Path(), seed=0)
    for epoch in (0, 2, 4):
        saved = checkpoint.load(folder(loaded) / f"epoch_00{epoch}.pt")
        network = models.build(
            loaded.document.model, channels=1, classes=10, size=(8, 8), job_folder=Path()
        )
        checkpoint.fit(network, saved, key="x")
        network.double().eval().requires_grad_(False)
        for split in ("train", "test"):
            x, y = data.normalized(digits, split, torch.float64), digits.splits[split].y
            with torch.no_grad():
                logits = network(x)
            loss = float(torch.nn.functional.cross_entropy(logits, y))
            error = float((logits.argmax(1) != y).double().mean())
            assert found.columns[f"{split}_loss"][epoch] == pytest.approx(loss, rel=1e-5)
            assert found.columns[f"{split}_error"][epoch] == pytest.approx(error)
            assert saved.numbers[f"{split}_loss"] == found.columns[f"{split}_loss"][epoch]
        assert saved.epoch == epoch
        parameters = dict(network.named_parameters())
        assert list(found.parameters) == list(parameters)
        norms = [float(p.norm()) for p in parameters.values()]
        np.testing.assert_allclose(found.layer_norms[epoch], norms, rtol=1e-12)
        assert found.columns["weight_norm"][epoch] == pytest.approx(math.hypot(*norms))
    rates = found.columns["learning_rate"]
    assert math.isnan(rates[0])
    np.testing.assert_allclose(rates[1:], [0.05, 0.05, 0.005, 0.0005])


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


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "adam", "lr": 0.01},
        {"batch_size": 5000, "lr": 0.5, "epochs": 12},
        {"crop": 1, "flip": True, "model": RESNET},
        {"weight_decay": 0.0, "momentum": 0.0},
        {"label_noise": 0.1, "batch_size": 199},
    ],
    ids=str,
)
def test_every_recipe_learns_and_repeats_itself(make_job, settings):
    """Two trainings of one seed are equal bit for bit; the loss falls."""
    one, other = make_job(name="a", **settings), make_job(name="b", **settings)
    run(one), run(other)
    assert_same_training(one, other)
    losses = store.read_history(folder(one) / "history.h5").columns["train_loss"]
    assert losses[-1] < losses[0]


def test_another_seed_is_another_training(make_job):
    """Already the initial parameters differ."""
    one, other = make_job(name="a"), make_job(name="b", seed=1)
    run(one), run(other)
    a, b = (checkpoint.load(folder(j) / "epoch_000.pt") for j in (one, other))
    assert not torch.equal(a.state["linear.weight"], b.state["linear.weight"])


def test_sgd_takes_the_steps_of_the_formula(tmp_path, make_job):
    """One full batch a step, against Nesterov momentum with weight decay written out."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 3)), rng.normal(size=(6, 1))
    np.savez(tmp_path / "a.npz", x_train=x.astype("f4"), y_train=y.astype("f4"))
    dataset = {"dataset": "arrays", "root": "a.npz", "splits": ["train"]}
    content = {
        "model": {"arch": "mlp", "args": {"hidden": []}},
        "data": dataset,
        "loss": "mse",
        "train": {"output": "o", "epochs": 3, "save_every": 1, "batch_size": 9, "lr": 0.1}
        | {"weight_decay": 0.01, "milestones": [2]},
    }
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(content))
    loaded = job.load(tmp_path / "m.yaml", command="train")
    run(loaded)
    states = [checkpoint.load(tmp_path / f"o/epoch_00{e}.pt").state for e in range(4)]
    w = states[0]["linear.weight"].numpy().astype(float)
    b = states[0]["linear.bias"].numpy().astype(float)
    momenta = [np.zeros_like(w), np.zeros_like(b)]
    x, y = x.astype("f4").astype(float), y.astype("f4").astype(float)
    for epoch, rate in ((1, 0.1), (2, 0.1), (3, 0.01)):
        residual = 2 * (x @ w.T + b - y) / len(x)
        gradients = [residual.T @ x + 0.01 * w, residual.sum(0) + 0.01 * b]
        momenta = [0.9 * m + g for m, g in zip(momenta, gradients, strict=True)]
        steps = [g + 0.9 * m for m, g in zip(momenta, gradients, strict=True)]
        w, b = w - rate * steps[0], b - rate * steps[1]
        np.testing.assert_allclose(states[epoch]["linear.weight"], w, rtol=1e-5)
        np.testing.assert_allclose(states[epoch]["linear.bias"], b, rtol=1e-5)
    assert "train_error" not in store.read_history(tmp_path / "o/history.h5").columns


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


# Interruptions.


def stop_after(monkeypatch, batches, number=signal.SIGTERM):
    """Send this process a signal in the middle of an epoch."""
    counted, original = [], recipe.batches

    def counting(*arguments):
        counted.append(1)
        if len(counted) == batches:
            os.kill(os.getpid(), number)
        return original(*arguments)

    monkeypatch.setattr(recipe, "batches", counting)


STOPPED = {
    "mlp": {"model": TINY, "optimizer": "adam", "lr": 0.01},
    "resnet": {"model": RESNET, "crop": 1},
}


@pytest.fixture(scope="module", params=STOPPED)
def undisturbed(request, tmp_path_factory):
    """A training that nobody has stopped, and its settings."""
    settings = STOPPED[request.param]
    loaded = write(tmp_path_factory.mktemp("undisturbed"), "a", **settings)
    run(loaded)
    return loaded, settings


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_stops_between_batches_and_changes_nothing(
    make_job, monkeypatch, number, undisturbed
):
    """The run ends with its own exit code; the next one ends as if undisturbed."""
    other, settings = undisturbed
    one = make_job(**settings)
    with monkeypatch.context() as patch:
        stop_after(patch, 3, number)
        with pytest.raises(Stopped, match=f"{number.name} in epoch 3 of 4") as caught:
            run(one)
    assert caught.value.exit_code == 75
    assert not store.read_history(folder(one) / "history.h5").finished
    run(one)
    assert_same_training(one, other)


def test_a_stop_before_the_first_epoch_is_no_trap(make_job, monkeypatch):
    """A run stopped at once claims its folder, and the next one trains."""
    loaded = make_job()
    original = training.NetworkTraining.begin

    def begin(self, earlier):
        os.kill(os.getpid(), signal.SIGTERM)
        original(self, earlier)

    with monkeypatch.context() as patch:
        patch.setattr(training.NetworkTraining, "begin", begin)
        with pytest.raises(Stopped):
            run(loaded)
    run(loaded)
    assert store.read_history(folder(loaded) / "history.h5").finished


def test_killed_trainings_end_as_if_undisturbed(make_job):
    """SIGKILL at random moments; the checkpoints are whole, the end is the same."""
    data_spec = {"dataset": "digits", "subset": 100}
    settings = {"model": RESNET, "dataset": data_spec, "epochs": 8, "save_every": 2}
    one, other = make_job(name="a", **settings), make_job(name="b", **settings)
    run(other)
    rng, killed = random.Random(0), 0
    for _ in range(4):
        process = FORK.Process(target=run, args=(one,))
        process.start()
        process.join(rng.uniform(0.1, 0.6))
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
        for file in folder(one).glob("epoch_*.pt"):
            checkpoint.load(file)
    assert killed
    run(one)
    assert_same_training(one, other)


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


# Refusals.


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"lr": 0.06}, "train.lr is 0.06 in the job, 0.05 in the file"),
        ({"epochs": 9}, "train.epochs is 9"),
        ({"model": RESNET}, 'model.arch is "resnet20" in the job, "mlp" in the file'),
        ({"dataset": {"dataset": "digits", "subset": 100}}, "data.subset is 100"),
    ],
    ids=lambda v: str(v)[:30],
)
def test_another_trainings_folder_is_refused(make_job, changed, said):
    """The first difference is named and no file is touched."""
    run(make_job(epochs=1))
    loaded = make_job(**{"epochs": 1, **changed})
    before = {p: p.read_bytes() for p in folder(loaded).iterdir()}
    with pytest.raises(UsageError, match=f"train.output: .*another training.*{said}"):
        run(loaded)
    assert {p: p.read_bytes() for p in folder(loaded).iterdir()} == before


def test_other_data_under_the_same_name_are_noticed(tmp_path, make_job):
    """An interrupted training does not go on with an .npz that was replaced."""
    dataset = {"dataset": "arrays", "root": "a.npz", "splits": ["train"]}
    for value, expected in ((0, True), (1, False)):
        x = np.full((8, 3), value, "f4")
        np.savez(tmp_path / "a.npz", x_train=x, y_train=np.arange(8) % 2)
        loaded = make_job(dataset=dataset, epochs=2)
        if expected:
            run(loaded)
            file = folder(loaded) / "history.h5"
            found = store.read_history(file)
            columns = {k: v[:1] for k, v in found.columns.items()}
            store.write_history(
                file,
                History(
                    columns=columns,
                    parameters=found.parameters,
                    layer_norms=found.layer_norms[:1],
                    attributes=found.attributes,
                ),
            )
        else:
            with pytest.raises(UsageError, match="training on other data"):
                run(loaded)


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


MODULE = """
from torch import nn
class Viewing(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(256, 10)
    def forward(self, x):
        return self.linear(self.conv(x).view(len(x), -1))
def frozen():
    return Viewing().requires_grad_(False)
def narrow():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
def bad_loss(output, target):
    raise ValueError("no such loss")
"""


def test_a_users_network_may_depend_on_the_memorys_order(tmp_path, make_job):
    """Networks that call `view` after a convolution are trained too."""
    (tmp_path / "trainee.py").write_text(MODULE)
    run(make_job(model={"arch": "trainee:Viewing"}, epochs=1))


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


def test_augmentation_and_label_noise_need_fitting_data(tmp_path, make_job):
    """Crop and flip need images, wrong labels need classes."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 3)).astype("f4"), rng.normal(size=(8, 1)).astype("f4")
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y)
    dataset = {"dataset": "arrays", "root": "a.npz", "splits": ["train"]}
    for settings, key in (({"crop": 1}, "crop"), ({"flip": True}, "flip")):
        with pytest.raises(UsageError, match=f"train.{key}: needs images"):
            run(make_job(dataset=dataset, **settings))
    with pytest.raises(UsageError, match=r"train.label_noise: needs labels"):
        run(make_job(dataset=dataset, label_noise=0.5))
    with pytest.raises(UsageError, match="loss: cross_entropy refuses"):
        run(make_job(dataset=dataset, model={"arch": "mlp", "args": {"classes": 2}}))


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


def test_the_history_knows_its_recipe(make_job):
    """Its attributes hold what decides the result, and no paths among it."""
    loaded = make_job()
    run(loaded)
    found = json.loads(store.read_history(folder(loaded) / "history.h5").attributes["recipe"])
    assert found["train"]["lr"] == 0.05
    assert "output" not in found["train"]
    assert "root" not in found["data"]


def test_a_damaged_state_is_named(make_job, monkeypatch):
    """With what is wrong in it and what to do; nothing is trained over it."""
    loaded = make_job()
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(Stopped):
            run(loaded)
    torch.save({"epoch": 2}, folder(loaded) / "resume.pt")
    with pytest.raises(UsageError, match=r"resume\.pt is damaged \(KeyError: .*; remove it to"):
        run(loaded)


def test_a_folder_that_cannot_be_made_is_said_with_its_key(make_job, monkeypatch):
    """As everywhere, it is the environment that is at fault."""
    loaded = make_job()

    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(EnvironmentUnfit, match=r"train\.output: .*/out/a cannot be made"):
        run(loaded)
