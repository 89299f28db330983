"""Checkpoints: every habit of saving is read, every mistake is named."""

from __future__ import annotations

import hashlib
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lsengine import files, models
from lsengine.errors import EnvironmentUnfit, UsageError
from lsengine.job import schema
from lsengine.models import checkpoint

KEY = "model.checkpoint"


@pytest.fixture
def network():
    """A small network with a batch norm."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def prefixed(state, prefix):
    """The state dict of a wrapped model."""
    return {prefix + name: tensor for name, tensor in state.items()}


WRAPPINGS = {
    "bare": lambda s: s,
    "state_dict": lambda s: {"acc": 93.1, "epoch": 300, "state_dict": s},
    "model": lambda s: {"model": s, "optimizer": {"state": {}}},
    "net": lambda s: {"net": s, "acc": 93.1},
    "model_state_dict": lambda s: {"model_state_dict": s},
    "nested twice": lambda s: {"model": {"state_dict": s}},
    "data parallel": lambda s: {"state_dict": prefixed(s, "module.")},
    "compiled": lambda s: prefixed(s, "_orig_mod."),
    "compiled data parallel": lambda s: prefixed(s, "module._orig_mod."),
    "data parallel compiled": lambda s: prefixed(s, "_orig_mod.module."),
    "numpy accuracy": lambda s: {"state_dict": s, "acc": np.float64(93.1), "epoch": 7},
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("wrap", WRAPPINGS.values(), ids=WRAPPINGS.keys())
def test_every_habit_of_saving_is_read(tmp_path, network, wrap, zipped):
    """Nesting, prefixes and formats lead to the same parameters."""
    path = tmp_path / "model_300.t7"
    torch.save(wrap(network.state_dict()), path, _use_new_zipfile_serialization=zipped)
    found = checkpoint.load(path)
    assert list(found.state) == list(network.state_dict())
    fresh = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    checkpoint.fit(fresh, found, key=KEY)
    for name, tensor in network.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], tensor)


def _batch_norm(name, size):
    """Shapes of a batch norm, in the order of a state dict."""
    parts = {n: (size,) for n in ("weight", "bias", "running_mean", "running_var")}
    return {f"{name}.{n}": shape for n, shape in (parts | {"num_batches_tracked": ()}).items()}


def _linear(name, inputs, outputs):
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _residual(depth, width=16, shortcut=True):
    """Names and shapes of the residual networks of loss-landscape, by its layout."""
    small = depth in (18, 34, 50)
    counts = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}.get(
        depth, ((depth - 2) // 6,) * 3
    )
    inputs = width = 64 if small else width
    shapes = {"conv1.weight": (width, 3, 3, 3), **_batch_norm("bn1", width)}
    for stage, count in enumerate(counts):
        planes = width * 2**stage
        outputs = planes * (4 if depth == 50 else 1)
        for block in range(count):
            name = f"layer{stage + 1}.{block}"
            sizes = [(planes, inputs, 3), (planes, planes, 3)]
            if depth == 50:
                sizes = [(planes, inputs, 1), (planes, planes, 3), (outputs, planes, 1)]
            for i, (rows, columns, side) in enumerate(sizes, start=1):
                shapes[f"{name}.conv{i}.weight"] = (rows, columns, side, side)
                shapes |= _batch_norm(f"{name}.bn{i}", rows)
            if shortcut and ((stage and not block) or inputs != outputs):
                shapes[f"{name}.shortcut.0.weight"] = (outputs, inputs, 1, 1)
                shapes |= _batch_norm(f"{name}.shortcut.1", outputs)
            inputs = outputs
    return shapes | _linear("linear", inputs, 10)


def _vgg(depth):
    """The same of VGG: positions count pooling and ReLU, too."""
    stages = {9: (2, 2, 3), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}[depth]
    shapes, position, inputs = {}, 0, 3
    for planes, count in zip((64, 128, 256, 512, 512), stages, strict=False):
        for _ in range(count):
            shapes[f"features.{position}.weight"] = (planes, inputs, 3, 3)
            shapes[f"features.{position}.bias"] = (planes,)
            shapes |= _batch_norm(f"features.{position + 1}", planes)
            position, inputs = position + 3, planes
        position += 1
    side = 32 // 2 ** len(stages)
    shapes |= _linear("fc.0", inputs * side * side, inputs) | _batch_norm("fc.1", inputs)
    return shapes | _linear("classifier", inputs, 10)


def _densenet():
    """The same of DenseNet-121."""
    shapes, planes = {"conv1.weight": (64, 3, 3, 3)}, 64
    for stage, count in enumerate((6, 12, 24, 16), start=1):
        for layer in range(count):
            name = f"dense{stage}.{layer}"
            shapes |= _batch_norm(f"{name}.bn1", planes)
            shapes[f"{name}.conv1.weight"] = (128, planes, 1, 1)
            shapes |= _batch_norm(f"{name}.bn2", 128)
            shapes[f"{name}.conv2.weight"] = (32, 128, 3, 3)
            planes += 32
        if stage < 4:
            shapes |= _batch_norm(f"trans{stage}.bn", planes)
            shapes[f"trans{stage}.conv.weight"] = (planes // 2, planes, 1, 1)
            planes //= 2
    return shapes | _batch_norm("bn", planes) | _linear("linear", planes, 10)


LOSS_LANDSCAPE = {
    **{f"vgg{depth}": _vgg(depth) for depth in (9, 16, 19)},
    **{f"resnet{depth}": _residual(depth) for depth in (18, 34, 50, 20, 32, 44, 56, 110)},
    **{
        f"resnet{d}_noshort": _residual(d, shortcut=False)
        for d in (18, 34, 50, 20, 32, 44, 56, 110)
    },
    **{
        f"wrn{depth}_{k}{end}": _residual(depth, 16 * k, shortcut=not end)
        for depth, k in ((56, 1), (56, 2), (56, 4), (56, 8), (110, 2), (110, 4))
        for end in ("", "_noshort")
    },
    "densenet121": _densenet(),
}


@pytest.mark.parametrize("arch", LOSS_LANDSCAPE)
def test_names_and_shapes_of_the_whole_zoo_are_those_of_loss_landscape(arch):
    """Of every family; also the order, on which direction files rely."""
    with torch.device("meta"):
        model = models.build(
            schema.ModelSpec(arch=arch), channels=3, classes=10, size=(32, 32), job_folder=Path()
        )
    found = [(n, (*t.shape,)) for n, t in model.state_dict().items()]
    assert found == [*LOSS_LANDSCAPE[arch].items()]


@pytest.mark.parametrize("arch", ["vgg9", "resnet18", "resnet20_noshort", "wrn56_1", "densenet121"])
def test_a_checkpoint_of_loss_landscape_loads_as_it_is(tmp_path, arch):
    """A .t7 of a data-parallel model, nested, in torch's format before 1.6, fits by name."""
    counters = {"num_batches_tracked": torch.int64}
    state = {
        f"module.{name}": torch.randn(shape).to(counters.get(name.rpartition(".")[2]))
        for name, shape in LOSS_LANDSCAPE[arch].items()
    }
    path = tmp_path / "model_300.t7"
    content = {"acc": 93.1, "epoch": 300, "state_dict": state}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    model = models.build(
        schema.ModelSpec(arch=arch), channels=3, classes=10, size=(32, 32), job_folder=Path()
    )
    checkpoint.fit(model, checkpoint.load(path), key=KEY)
    assert all(torch.equal(t, state[f"module.{n}"]) for n, t in model.state_dict().items())


def test_epoch_and_numbers_are_kept(tmp_path, network):
    """What else the file says is there for captions."""
    torch.save({"state_dict": network.state_dict(), "epoch": 12, "acc": 93.5}, tmp_path / "a.pt")
    found = checkpoint.load(tmp_path / "a.pt")
    assert found.epoch == 12
    assert found.numbers == {"acc": 93.5}
    torch.save(network.state_dict(), tmp_path / "b.pt")
    assert checkpoint.load(tmp_path / "b.pt").epoch is None


def test_a_model_of_one_attribute_called_module_keeps_it(tmp_path):
    """A prefix that is the model's own is put back."""
    owner = nn.Module()
    owner.module = nn.Linear(2, 2)
    torch.save(owner.state_dict(), tmp_path / "a.pt")
    twin = nn.Module()
    twin.module = nn.Linear(2, 2)
    checkpoint.fit(twin, checkpoint.load(tmp_path / "a.pt"), key=KEY)
    assert torch.equal(twin.module.weight, owner.module.weight)


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (print, ("code was run",))


def broken_files(folder, network):
    """Files that are no checkpoints, with what must be said of each."""
    torch.save(network.state_dict(), folder / "whole.pt")
    whole = (folder / "whole.pt").read_bytes()
    contents = {
        "empty": b"",
        "text": b"this is not a checkpoint\n" * 40,
        "cut": whole[: len(whole) // 2],
        "zip of nothing": b"PK\x05\x06" + bytes(18),
        "pickle": pickle.dumps({"weights": [1, 2, 3]}, protocol=2)[:-4],
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
        yield folder / name, "not a checkpoint of torch, or damaged"
    torch.save({"state_dict": network.state_dict(), "extra": Evil()}, folder / "evil")
    yield folder / "evil", r"may run code \(\S*print\).*torch\.save\(model\.state_dict"
    torch.save({"extra": Evil()}, folder / "old evil", _use_new_zipfile_serialization=False)
    yield folder / "old evil", r"may run code \(\S*print\).*torch\.save\(model\.state_dict"
    torch.save(network, folder / "model")
    yield folder / "model", r"Python objects.*torch\.save\(model\.state_dict"
    torch.save({"epoch": 3, "history": [1.0]}, folder / "no parameters")
    yield folder / "no parameters", "holds no parameters; found: epoch, history"
    torch.save([1, 2], folder / "list")
    yield folder / "list", "holds no parameters; found: one list"
    endless = {"epoch": 1}
    endless["state_dict"] = {"model": endless}
    torch.save(endless, folder / "endless")
    yield folder / "endless", "holds no parameters; found: a dict that holds itself; expected"
    yield folder / "absent", "no such file"
    yield folder, "is a directory"


def test_what_is_no_checkpoint_is_named(tmp_path, network, capfd):
    """Damaged, foreign and unsafe files each give one message with the key; no code is run."""
    for path, said in broken_files(tmp_path, network):
        with pytest.raises(UsageError, match=f"^{KEY}: .*{said}"):
            checkpoint.load(path)
    assert "code was run" not in capfd.readouterr().out


def test_every_truncation_is_noticed(tmp_path, network):
    """A file cut anywhere is refused, never read in part."""
    checkpoint.save(tmp_path / "whole.pt", network)
    whole = (tmp_path / "whole.pt").read_bytes()
    for size in range(0, len(whole) - 1, len(whole) // 40):
        (tmp_path / "cut.pt").write_bytes(whole[:size])
        with pytest.raises(UsageError, match="damaged"):
            checkpoint.load(tmp_path / "cut.pt")


def test_a_misfit_lists_names_and_shapes(tmp_path, network):
    """Missing, unexpected and reshaped parameters are told apart; the model is untouched."""
    state = network.state_dict()
    del state["0.bias"]
    state["head.weight"] = torch.zeros(2, 2)
    state["2.weight"] = torch.zeros(5, 4)
    torch.save(state, tmp_path / "a.pt")
    before = network[0].weight.clone()
    with pytest.raises(UsageError) as caught:
        checkpoint.fit(network, checkpoint.load(tmp_path / "a.pt"), key=KEY)
    text = str(caught.value)
    assert "missing: 0.bias" in text
    assert "unexpected: head.weight" in text
    assert "2.weight (5x4, in the model 2x4)" in text
    assert text.startswith(KEY)
    assert torch.equal(network[0].weight, before)


def test_a_long_list_is_cut(tmp_path):
    """A wholly different network does not fill the screen."""
    torch.save(nn.Sequential(*(nn.Linear(1, 1) for _ in range(20))).state_dict(), tmp_path / "a")
    with pytest.raises(UsageError, match=r"2.weight and 35 more"):
        checkpoint.fit(nn.Linear(1, 1), checkpoint.load(tmp_path / "a"), key=KEY)


def test_counters_of_batches_may_be_missing(tmp_path, network):
    """Files from before torch 0.4.1 have none."""
    network[1].num_batches_tracked.fill_(5)
    state = network.state_dict()
    del state["1.num_batches_tracked"]
    torch.save(state, tmp_path / "old.t7")
    checkpoint.fit(network, checkpoint.load(tmp_path / "old.t7"), key=KEY)
    assert network[1].num_batches_tracked == 5


def test_nan_is_a_legitimate_parameter(tmp_path, network):
    """A diverged network is loaded as it is."""
    network[0].weight.data.fill_(math.nan)
    checkpoint.save(tmp_path / "a.pt", network)
    assert checkpoint.load(tmp_path / "a.pt").state["0.weight"].isnan().all()


def test_saving_replaces_whole_files_only(tmp_path, network, monkeypatch):
    """When writing fails the old file stays, and nothing is left beside it."""
    path = tmp_path / "a.pt"
    checkpoint.save(path, network, epoch=1)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(EnvironmentUnfit, match="No space left"):
        checkpoint.save(path, network, epoch=2)
    assert checkpoint.load(path).epoch == 1
    assert list(tmp_path.iterdir()) == [path]


def test_the_same_content_makes_the_same_file(tmp_path, network):
    """Neither the file's name nor the memory's order is part of a checkpoint."""
    checkpoint.save(tmp_path / "a.pt", network, epoch=1, content={"loss": 0.5})
    checkpoint.save(tmp_path / "b.pt", network, epoch=1, content={"loss": 0.5})
    a, b = (checkpoint.load(tmp_path / f"{n}.pt") for n in "ab")
    assert a.sha256 == b.sha256 == hashlib.sha256((tmp_path / "a.pt").read_bytes()).hexdigest()
    assert a.numbers == {"loss": 0.5}


def test_the_digest_of_a_missing_file_is_an_error():
    """It says which file."""
    with pytest.raises(UsageError, match=r"nowhere.*No such file"):
        files.sha256(Path("nowhere"))
