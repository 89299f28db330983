"""Trainings that are stopped, killed and taken up again."""

from __future__ import annotations

import os
import random
import signal

import numpy as np
import pytest
import torch

from lsengine import store
from lsengine.errors import Stopped, UsageError
from lsengine.models import checkpoint
from lsengine.surface.records import History
from lsengine.training import recipe, resumable, training
from tests.training.conftest import (
    FORK,
    RESNET,
    TINY,
    assert_same_training,
    folder,
    run,
    write,
)


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
    "gpt": {
        "model": {"arch": "gpt", "args": {"width": 8, "depth": 1, "heads": 2, "dropout": 0.2}},
        "dataset": {"dataset": "text", "root": __file__, "args": {"context": 8}, "subset": 70},
        **{"optimizer": "adamw", "schedule": "cosine", "warmup": 1.5, "clip_norm": 0.5},
        "noise": 0.0,
    },
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


def test_an_edited_network_is_refused_with_its_file(tmp_path, make_job):
    """A training that was done, or begun, with another source of the user's."""
    source = tmp_path / "trained_net.py"
    text = "from torch import nn\ndef make(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))"
    source.write_text(text)
    run(make_job(epochs=1, model={"arch": "trained_net:make"}))
    source.write_text(text + "\n# edited")
    with pytest.raises(UsageError, match=r"the source trained_net\.py is not .*; undo the edit"):
        run(make_job(epochs=1, model={"arch": "trained_net:make"}))
    source.write_text(text)
    run(make_job(epochs=1, model={"arch": "trained_net:make"}))


def test_a_training_older_than_a_key_is_the_same(make_job):
    """Keys that leave everything as it was are in no identity; others are."""
    keys = ("schedule", "warmup", "clip_norm", "precision", "measure_every")
    for values, found in (
        (("milestones", 0, None, "float32", 1), None),
        (("cosine", 1, 1, "auto", 2), ["cosine", 1.0, 1.0, "auto", 2]),
    ):
        loaded = make_job(epochs=3, **dict(zip(keys, values, strict=True)))
        settings = resumable.identity_of(loaded, "train", ignored=())["train"]
        assert [settings[k] for k in keys if k in settings] == (found or [])


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


def test_a_changed_bit_of_a_state_is_seen(make_job, monkeypatch):
    """A training does not go on with other weights than it had."""
    loaded = make_job()
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(Stopped):
            run(loaded)
    state = folder(loaded) / "resume.pt"
    content = bytearray(state.read_bytes())
    weights = torch.load(state, weights_only=True)["state_dict"]
    largest = max(weights.values(), key=torch.numel)
    content[content.index(largest.numpy().tobytes()) + 2] ^= 1
    state.write_bytes(content)
    with pytest.raises(UsageError, match=r"resume\.pt is damaged: it is not what was written"):
        run(loaded)
    state.unlink()
    run(loaded)


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
