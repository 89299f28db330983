"""Training: recipes, checkpoints, history, and interruptions that change nothing."""

from __future__ import annotations

import json
import logging
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from lsengine import data, job, models, store
from lsengine.errors import Stopped, SurfaceError, UsageError
from lsengine.job.schema import TrainSpec
from lsengine.models import checkpoint
from lsengine.surface import records as surface_records
from lsengine.training import recipe, training

TINY = {"arch": "mlp", "args": {"hidden": [16]}}
RESNET = {"arch": "resnet20", "args": {"width": 2}}
BASE = {"epochs": 4, "save_every": 2, "lr": 0.05, "batch_size": 32, "noise": 0.1}


@pytest.fixture
def make_job(tmp_path):
    """Write and load a job that trains on 200 digits."""

    def make(*, name="a", model=TINY, dataset=None, **settings):
        content = {
            "model": model,
            "data": dataset or {"dataset": "digits", "subset": 200},
            "threads": 1,
            "device": "cpu",
            "train": {"output": f"out/{name}", **BASE, **settings},
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content))
        return job.load(path, command="train")

    return make


@pytest.fixture(autouse=True)
def _every_epoch(monkeypatch):
    """Keep the state of every epoch, so that short trainings can be resumed too."""
    monkeypatch.setattr(training, "_RESUME_EVERY_S", 0.0)


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


# The arithmetic of recipes.


def test_the_learning_rate_drops_where_the_paper_drops_it():
    """Tenfold after epochs 150, 225 and 275 of 300."""
    settings = TrainSpec(output="x", epochs=300, lr=0.1)
    rates = [recipe.learning_rate(settings, epoch) for epoch in range(1, 301)]
    drops = [e for e in range(1, 300) if rates[e] < rates[e - 1]]
    assert drops == [150, 225, 275]
    assert rates[0] == 0.1
    assert rates[-1] == pytest.approx(1e-4)


def test_milestones_may_be_given_or_left_out_altogether():
    """Any order; an empty list keeps the rate."""
    given = TrainSpec(output="x", epochs=9, lr=1.0, milestones=[6, 2], gamma=0.5)
    assert [recipe.learning_rate(given, e) for e in (2, 3, 6, 7)] == [1.0, 0.5, 0.5, 0.25]
    assert recipe.milestones(TrainSpec(output="x", epochs=1)) == [1, 1, 1]  # nothing drops early
    constant = TrainSpec(output="x", epochs=9, lr=1.0, milestones=[])
    assert recipe.learning_rate(constant, 9) == 1.0


def test_adam_has_its_own_default_rate():
    """0.001 instead of 0.1, unless the job says otherwise."""
    assert TrainSpec(output="x", epochs=1, optimizer="adam").lr == 0.001
    assert TrainSpec(output="x", epochs=1, optimizer="adam", lr=0.1).lr == 0.1
    assert TrainSpec(output="x", epochs=1).lr == 0.1


def test_checkpoints_are_kept_at_the_epochs_asked_for():
    """The first, every so many, those named and the last."""
    settings = TrainSpec(output="x", epochs=25, save_every=10, save_epochs=[1, 3])
    assert recipe.saved_epochs(settings) == {0, 1, 3, 10, 20, 25}


@pytest.mark.parametrize(
    ("samples", "size", "sizes"),
    [(10, 4, [4, 4, 2]), (9, 4, [4, 5]), (3, 8, [3]), (8, 4, [4, 4]), (3, 1, [1, 2])],
)
def test_an_epoch_sees_every_sample_once(samples, size, sizes):
    """The rest is a batch of its own; a single sample joins the batch before it."""
    found = recipe.batches(samples, size, recipe.generator_of(0, "x"))
    assert [len(b) for b in found] == sizes
    assert sorted(torch.cat(found).tolist()) == list(range(samples))


@pytest.mark.parametrize("crop", [0, 1, 4])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_augmentation_is_a_window_of_the_padded_image(crop, flip, dtype):
    """Each result is one of the windows that brute force finds, mirrored or not."""
    x = (torch.rand(60, 2, 4, 5, generator=recipe.generator_of(1, "x")) * 250 + 1).to(dtype)
    found = recipe.augmented(x, crop=crop, flip=flip, generator=recipe.generator_of(0, "x"))
    assert found.dtype == dtype
    seen = set()
    for image, result in zip(x, found, strict=True):
        padded = torch.zeros(2, 4 + 2 * crop, 5 + 2 * crop, dtype=dtype)
        padded[:, crop : crop + 4, crop : crop + 5] = image
        windows = {
            (row, column, mirrored): padded[:, row : row + 4, column : column + 5]
            for row in range(2 * crop + 1)
            for column in range(2 * crop + 1)
            for mirrored in (False, True)
        }
        fits = [k for k, w in windows.items() if torch.equal(w.flip(2) if k[2] else w, result)]
        assert fits
        seen.add(fits[0])
    assert len({k[2] for k in seen}) == (2 if flip else 1)
    assert len({k[:2] for k in seen}) >= min(9, (2 * crop + 1) ** 2)


def test_label_noise_replaces_an_exact_fraction():
    """A quarter of the labels is wrong, always the same ones, and no class is spared."""
    y = torch.arange(1000) % 10
    noisy = recipe.with_label_noise(y, 10, 0.25, seed=3)
    assert int((noisy != y).sum()) == 250
    assert set(noisy.unique().tolist()) == set(range(10))
    assert torch.equal(noisy, recipe.with_label_noise(y, 10, 0.25, seed=3))
    assert not torch.equal(noisy, recipe.with_label_noise(y, 10, 0.25, seed=4))
    assert torch.equal(y, recipe.with_label_noise(y, 10, 0.0, seed=3))


# Whole trainings.


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("model", [TINY, RESNET], ids=["mlp", "resnet"])
def test_a_signal_stops_between_batches_and_changes_nothing(make_job, monkeypatch, number, model):
    """The run ends with its own exit code; the next one ends as if undisturbed."""
    settings = {"optimizer": "adam", "lr": 0.01} if model is TINY else {"crop": 1}
    one = make_job(name="a", model=model, **settings)
    other = make_job(name="b", model=model, **settings)
    run(other)
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
    original = training._Training.begin

    def begin(self, earlier):
        os.kill(os.getpid(), signal.SIGTERM)
        original(self, earlier)

    with monkeypatch.context() as patch:
        patch.setattr(training._Training, "begin", begin)
        with pytest.raises(Stopped):
            run(loaded)
    run(loaded)
    assert store.read_history(folder(loaded) / "history.h5").finished


def test_killed_trainings_end_as_if_undisturbed(make_job):
    """SIGKILL at random moments; the checkpoints are whole, the end is the same."""
    settings = {"model": RESNET, "epochs": 12, "save_every": 3}
    one, other = make_job(name="a", **settings), make_job(name="b", **settings)
    run(other)
    rng, killed = random.Random(0), 0
    code = (
        "import sys; from lsengine import job\n"
        "from lsengine.training import training as train; train._RESUME_EVERY_S = 0.0\n"
        "loaded = job.load(sys.argv[1], command='train'); print('go', flush=True)\n"
        "train.run(loaded, progress='none')"
    )
    for _ in range(4):
        command = [sys.executable, "-c", code, str(one.source)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "go\n"
            time.sleep(rng.uniform(0.2, 1.0))
            process.kill()
            killed += process.wait() == -signal.SIGKILL
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
                surface_records.History(
                    columns, found.parameters, found.layer_norms[:1], found.attributes
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
    with pytest.raises(UsageError, match=r"history\.h5: is not HDF5, or damaged"):
        run(loaded)
    assert (folder(loaded) / "epoch_300.pt").read_text() == "precious"


def test_two_trainings_do_not_share_a_folder(make_job):
    """While one process trains, another is refused with the code of a locked file."""
    from lsengine.store import lock

    loaded = make_job()
    folder(loaded).mkdir(parents=True)
    code = (
        "import sys; from pathlib import Path; from lsengine.store import lock\n"
        "with lock.held(Path(sys.argv[1]), lost=lambda: None):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(folder(loaded) / "history.h5")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(SurfaceError, match="locked by process"):
            run(loaded)
        other.stdin.close()
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
