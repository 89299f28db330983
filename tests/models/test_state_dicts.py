"""State dicts are found by content and matched with the model, or refused with the cure."""

from __future__ import annotations

import argparse
import json
import logging

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.optim.swa_utils import AveragedModel

from lsengine.errors import UsageError
from lsengine.job.schema import ModelSpec
from lsengine.models import checkpoint

safetensors = pytest.importorskip("safetensors.torch")
KEY = "model.checkpoint"


def network(width=4, classes=2):
    """A small network with a batch norm, and names of two parts and three."""
    body = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width))
    model = nn.Module()
    model.body, model.head = body, nn.Linear(width, classes)
    return model


class Tied(nn.Module):
    """Two names of one tensor."""

    def __init__(self):
        super().__init__()
        self.e, self.head = nn.Linear(3, 3), nn.Linear(3, 3)
        self.head.weight = self.e.weight


class Settings:
    """An object of a class that torch does not know."""

    def __init__(self):
        self.width, self.inner = 8, {"a": [1, 2]}


class Attributes(dict):
    """A dict of a class that torch does not know, as Lightning's hyper-parameters are."""


def prefixed(state, prefix):
    """Put a prefix before every name."""
    return {prefix + name: tensor for name, tensor in state.items()}


def inner(state, before, part):
    """Put a part into the middle of the names that begin with another."""
    return {n.replace(f"{before}.", f"{before}.{part}.", 1): t for n, t in state.items()}


def other(state, by=1.0):
    """Return the same with other numbers."""
    return {n: t + by if t.is_floating_point() else t for n, t in state.items()}


def nested(state):
    """Return a dict of dicts instead of dotted names."""
    tree = {}
    for name, tensor in state.items():
        *path, last = name.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = tensor
    return tree


def shadow(state):
    """What an optimizer keeps under the numbers of parameters."""
    return {"state": {i: {"step": torch.tensor(5.0), "exp_avg": t} for i, t in enumerate(state)}}


FOUND = {
    "averaged": lambda s: {"n_averaged": torch.tensor(4), **prefixed(s, "module.")},
    "lightning": lambda s: {
        "epoch": 3,
        "global_step": 40,
        "pytorch-lightning_version": "2.5",
        "state_dict": prefixed(s, "model."),
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}}],
        "hyper_parameters": Attributes(lr=0.1, optimizer=Settings()),
        "callbacks": {"ModelCheckpoint{'monitor': 'loss'}": {"best": torch.tensor(0.5)}},
    },
    "namespace": lambda s: {"args": argparse.Namespace(lr=0.1), "model": s},
    "fsdp": lambda s: prefixed(s, "_fsdp_wrapped_module."),
    "fsdp inside": lambda s: inner(s, "body", "_fsdp_wrapped_module"),
    "compiled inside": lambda s: {"model": inner(s, "body", "_orig_mod")},
    "checkpointed inside": lambda s: inner(prefixed(s, "module."), "body", "_checkpoint_wrapped"),
    "by content": lambda s: {"model": {"hidden": 8}, "weights": s},
    "unheard names": lambda s: {"a": {"b": [1, {"c": prefixed(s, "my.own.prefix.")}]}},
    "in a list": lambda s: {"models": [s], "epoch": 2},
    "nested names": lambda s: {"params": nested(s)},
    "parts": lambda s: {
        "body": {n[5:]: t for n, t in s.items() if n.startswith("body.")},
        "head": {n[5:]: t for n, t in s.items() if n.startswith("head.")},
        "critic": {"weight": torch.ones(7)},
    },
    "deepspeed": lambda s: {
        "module": prefixed(s, "module."),
        "param_shapes": [{n: t.shape for n, t in s.items()}],
        "ds_version": "0.16",
        "global_steps": 10,
    },
    "optimizer by names": lambda s: {"optim": {"exp_avg": other(s)}, "model": s},
    "ema beside": lambda s: {"state_dict": s, "state_dict_ema": other(s)},
    "ema inside": lambda s: {
        "state_dict": {**prefixed(s, "model."), **prefixed(other(s), "ema_model.")}
    },
    "the same twice": lambda s: {"best": s, "last": {n: t.clone() for n, t in s.items()}},
    "parameters": lambda s: {"w": {n: nn.Parameter(t, False) for n, t in s.items()}},
    "compiled, and its average plain": lambda s: {
        "model": prefixed(s, "_orig_mod."),
        "ema": other(s),
    },
}


def write(path, content):
    """Save, read back and return what fits the network."""
    torch.save(content, path)
    return path


def taken(path, model=None, **keys):
    """Return the model with the checkpoint's numbers."""
    model = model or network()
    spec = ModelSpec(arch="net:make", **keys)
    checkpoint.fit(model, checkpoint.load(path, key=KEY, spec=spec), key=KEY)
    return model


def assert_same(model, state):
    """All numbers are those of the state dict."""
    found = model.state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


@pytest.fixture
def state():
    """The state of a network."""
    torch.manual_seed(1)
    return network().state_dict()


@pytest.mark.parametrize("wrap", FOUND.values(), ids=FOUND.keys())
def test_state_dicts_are_found(tmp_path, state, wrap):
    """By comparing names with the model's, wherever they are and whatever is before them."""
    assert_same(taken(write(tmp_path / "a.pt", wrap(state))), state)


def test_an_averaged_model_is_found(tmp_path):
    """As torch itself writes it."""
    model = network()
    average = AveragedModel(model)
    average.update_parameters(model)
    assert_same(taken(write(tmp_path / "a.pt", average.state_dict())), model.state_dict())


@pytest.mark.parametrize(
    "wrapper", [nn.DataParallel, lambda m: nn.Sequential(nn.Sequential(m)), AveragedModel]
)
def test_a_wrapped_model_takes_the_plain_file(tmp_path, state, wrapper):
    """The model's names have the prefix, the file's have not."""
    model = network()
    wrapped = wrapper(model)
    if isinstance(wrapped, AveragedModel):
        state = wrapped.state_dict()
        path = write(tmp_path / "a.pt", {"swa": state})
        assert_same(taken(path, wrapped), state)
    else:
        taken(write(tmp_path / "a.pt", {"model": state}), wrapped)
        assert_same(next(m for m in wrapped.modules() if hasattr(m, "body")), state)


CHOICES = {
    "ema": lambda s, e: {"state_dict": s, "ema": e},
    "state_dict_ema": lambda s, e: {"state_dict": s, "state_dict_ema": prefixed(e, "module.")},
    "model_ema": lambda s, e: {"model": s, "model_ema": {"decay": 0.9, "module": e}},
    "state_dict.ema_model": lambda s, e: {
        "state_dict": {**prefixed(s, "model."), **prefixed(e, "ema_model.")}
    },
    "ema_model": lambda s, e: {"a": {**prefixed(s, "online."), **prefixed(e, "ema_model.")}},
    "nets.1": lambda s, e: {"nets": [s, e]},
}


@pytest.mark.parametrize("key", CHOICES)
@pytest.mark.parametrize("short", [False, True])
def test_a_key_chooses(tmp_path, state, key, short):
    """By its dotted path, by the end of one, or by a word of it."""
    ema = other(state)
    path = write(tmp_path / "a.pt", CHOICES[key](state, ema))
    key = "ema" if short and "ema" in key else key
    assert_same(taken(path, checkpoint_key=key), ema)


def test_the_choice_is_said(tmp_path, state, caplog):
    """The plain one is taken, and the others are named."""
    logging.getLogger("lsengine").propagate = True
    path = write(tmp_path / "a.pt", {"state_dict": state, "ema": other(state)})
    with caplog.at_level(logging.INFO, "lsengine"):
        assert_same(taken(path), state)
    assert "the parameters are state_dict; ema would fit as well" in caplog.text


def test_a_prefix_is_removed(tmp_path, state):
    """Names of the same dict without it are left out; its dot may be left out, too."""
    content = {"state_dict": {**prefixed(state, "net."), "criterion.weight": torch.ones(2)}}
    path = write(tmp_path / "a.pt", content)
    with pytest.raises(UsageError, match=r'criterion\.weight; if .* model\.strip_prefix: "net\."'):
        taken(path)
    for prefix in ("net.", "net"):
        assert_same(taken(path, strip_prefix=prefix), state)


def refused(path, says, model=None, **keys):
    """A checkpoint is refused with words, and the model stays as it was."""
    model = model or network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UsageError, match=says):
        taken(path, model, **keys)
    assert_same(model, before)


REFUSED = {
    "two that differ": (
        lambda s: {"student": s, "teacher": other(s)},
        r"several state dicts.* differ: student, teacher; choose .*model\.checkpoint_key: student",
    ),
    "a layer more": (
        lambda s: {"model": {**s, "extra.weight": torch.ones(2)}},
        r"unexpected: extra\.weight",
    ),
    "a head that is left out": (
        lambda s: {**prefixed(s, "backbone."), "head2.weight": torch.ones(2, 2)},
        r'others beside: head2\.weight; .* model\.strip_prefix: "backbone\."',
    ),
    "renamed": (
        lambda s: {n.replace("head", "heads"): t for n, t in s.items()},
        r"missing: head\.weight, head\.bias.*nearest in the file: head\.weight \(heads\.weight\)",
    ),
    "adapters": (
        lambda s: {
            **{n.replace("head.", "head.base."): t for n, t in s.items()},
            "head.lora_A.weight": torch.ones(2, 2),
        },
        "merge_and_unload",
    ),
    "parametrised": (
        lambda s: {n.replace("head.weight", "head.parametrizations.weight.original"): t
                   for n, t in s.items()},
        "remove_parametrizations",
    ),
    "partitioned": (
        lambda s: {"module": {n: torch.empty(0) for n in s}},
        "empty tensors are parts of other ranks.*zero_to_fp32",
    ),
    "complex": (
        lambda s: {n: t.to(torch.complex64) if n == "head.weight" else t for n, t in s.items()},
        r"head\.weight is complex, and real in the model",
    ),
    "a model of one's own": (lambda s: {"model": Settings()}, r"Python objects.*Settings"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_explained(tmp_path, state, case):
    """With the cure, and the model is not changed."""
    wrap, says = REFUSED[case]
    refused(write(tmp_path / "a.pt", wrap(state)), says)


def test_more_outputs_than_labels_show(tmp_path):
    """A label that never occurs must not shrink the network: the key is named."""
    path = write(tmp_path / "a.pt", {"state_dict": network(classes=10).state_dict()})
    refused(path, r"head\.weight \(10x4, in the model 7x4\).*data\.args\.classes: 10",
            network(classes=7))  # fmt: skip
    path = write(tmp_path / "b.pt", {"state_dict": network(width=8).state_dict()})
    refused(path, r"other shapes; check model\.args")


def test_a_key_that_is_not_there(tmp_path, state):
    """It is refused with what is there; a bare state dict is what any key means."""
    path = write(tmp_path / "a.pt", {"state_dict": state, "optimizer": shadow(state)})
    refused(
        path, r"^model\.checkpoint_key: .*has no ema.*it has: state_dict$", checkpoint_key="ema"
    )
    assert_same(taken(write(tmp_path / "b.pt", state), checkpoint_key="ema"), state)


def test_tied_names_may_be_missing(tmp_path):
    """One of two names of a tensor is enough; two that differ are refused."""
    state = Tied().state_dict()
    whole = dict(state)
    for name in ("head.weight", "e.weight"):
        part = {n: t for n, t in whole.items() if n != name}
        model = taken(write(tmp_path / "a.pt", part), Tied())
        assert_same(model, whole)
        assert model.head.weight is model.e.weight
    refused(
        write(tmp_path / "b.pt", {**whole, "head.weight": torch.ones(3, 3)}),
        r"e\.weight and head\.weight are one tensor there, and differ",
        Tied(),
    )
    refused(
        write(tmp_path / "c.pt", {n: t for n, t in whole.items() if "weight" not in n}),
        r"missing: e\.weight, head\.weight",
        Tied(),
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_precisions_are_not_rounded(tmp_path, state, dtype):
    """What the file has arrives as exactly as the model's own precision can hold it."""
    file = {n: t.to(dtype) if t.is_floating_point() else t for n, t in state.items()}
    path = write(tmp_path / "a.pt", file)
    model = network().double()
    taken(path, model)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, file[name].double() if tensor.is_floating_point() else tensor)


def test_safetensors_are_read(tmp_path, state):
    """A file, one of another name, shards with their index, and folders of Hugging Face's."""
    safetensors.save_file(state, tmp_path / "model.safetensors", metadata={"epoch": "7"})
    (tmp_path / "other.ckpt").write_bytes((tmp_path / "model.safetensors").read_bytes())
    shards = tmp_path / "shards"
    shards.mkdir()
    names = list(state)
    index = {}
    for number, part in enumerate((names[:3], names[3:]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        safetensors.save_file(prefixed({n: state[n] for n in part}, "model."), shards / file)
        index |= {f"model.{name}": file for name in part}
    (shards / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    for path in (tmp_path / "model.safetensors", tmp_path / "other.ckpt", tmp_path, shards,
                 shards / "model.safetensors.index.json"):  # fmt: skip
        assert_same(taken(path), state)
    assert checkpoint.numbers(tmp_path / "model.safetensors", key=KEY) == {"epoch": 7}
    assert checkpoint.digest(tmp_path) == checkpoint.digest(tmp_path / "model.safetensors")
    before = checkpoint.digest(shards)
    safetensors.save_file({"x": torch.ones(1)}, shards / "model-00002-of-00002.safetensors")
    assert checkpoint.digest(shards) != before
    (shards / "model-00001-of-00002.safetensors").unlink()
    refused(shards, "files that are missing: model-00001-of-00002.safetensors")
    (tmp_path / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0nonsense")
    refused(tmp_path / "model.safetensors", "is not a checkpoint of safetensors, or damaged")


def test_shards_of_torch_are_read(tmp_path, state):
    """With their index, or the folder alone; the step is what the trainer wrote beside."""
    names = list(state)
    index = {}
    for number, part in enumerate((names[:2], names[2:]), 1):
        file = f"pytorch_model-0000{number}-of-00002.bin"
        torch.save({n: state[n] for n in part}, tmp_path / file)
        index |= dict.fromkeys(part, file)
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
    (tmp_path / "trainer_state.json").write_text('{"epoch": 0.5, "global_step": 500}')
    torch.save({"state": {0: {"exp_avg": torch.ones(2)}}}, tmp_path / "optimizer.pt")
    assert_same(taken(tmp_path), state)
    assert checkpoint.step_of(checkpoint.numbers(tmp_path, key=KEY)) == 500


def test_folders_of_deepspeed_are_read(tmp_path, state):
    """The folder of a step, or the one above, whose file says which; parts of ranks are refused."""
    step = tmp_path / "global_step10"
    step.mkdir()
    torch.save(FOUND["deepspeed"](state), step / "mp_rank_00_model_states.pt")
    (tmp_path / "latest").write_text("global_step10\n")
    for path in (step, tmp_path, step / "mp_rank_00_model_states.pt"):
        assert_same(taken(path), state)
    torch.save({}, step / "mp_rank_01_model_states.pt")
    refused(step, "holds the parts of 2 ranks; convert it with the zero_to_fp32.py")


def test_folders_of_torch_distributed_are_read(tmp_path, state):
    """Without a process group, and without running what their description names."""
    content = {"app": {"model": state, "optim": {"state": other(state)}}, "epoch": 3}
    dcp.save(content, checkpoint_id=tmp_path / "a", no_dist=True)
    assert_same(taken(tmp_path / "a"), state)
    assert checkpoint.epoch_of(checkpoint.numbers(tmp_path / "a", key=KEY)) == 3
    metadata = tmp_path / "a" / ".metadata"
    evil = b"cbuiltins\nprint\n(S'code was run'\ntR."
    metadata.write_bytes(evil)
    refused(tmp_path / "a", r"holds Python objects \(builtins\.print\)")


def test_objects_are_passed_over_without_running_code(tmp_path, state, capfd):
    """Neither their classes' code nor what they name is run."""
    path = write(tmp_path / "a.pt", {"state_dict": state, "settings": Settings()})
    content = path.read_bytes()
    assert b"Settings" in content
    assert_same(taken(path), state)
    torch.save({"state_dict": state, "evil": Evil()}, path)
    refused(path, r"may run code \(\S*print\)")
    assert "code was run" not in capfd.readouterr().out


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (print, ("code was run",))
