"""State dicts are found by content, and their names are matched with the model."""

from __future__ import annotations

import argparse
import logging

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from lsengine.errors import UsageError
from lsengine.models import state_dicts
from tests.support.state_dicts import (
    Attributes,
    Settings,
    Tied,
    assert_same,
    network,
    other,
    prefixed,
    refused,
    shadow,
    taken,
    write,
)


def inner(state, before, part):
    """Put a part into the middle of the names that begin with another."""
    return {n.replace(f"{before}.", f"{before}.{part}.", 1): t for n, t in state.items()}


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
    "sparse": lambda s: {"m": {n: t.to_sparse() if t.ndim > 1 else t for n, t in s.items()}},
    "parameters": lambda s: {"w": {n: nn.Parameter(t, False) for n, t in s.items()}},
    "compiled, and its average plain": lambda s: {
        "model": prefixed(s, "_orig_mod."),
        "ema": other(s),
    },
}


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


def test_a_key_chooses_among_names_of_one_dict(tmp_path, state):
    """One that is not there is refused where there is a choice."""
    ema = other(state)
    path = write(tmp_path / "a.pt", {**prefixed(state, "model."), **prefixed(ema, "ema.")})
    assert_same(taken(path), state)
    assert_same(taken(path, checkpoint_key="ema"), ema)
    refused(path, "differ: model, ema; choose one", checkpoint_key="swa")


def test_dicts_beside_several_are_named(tmp_path, state, caplog):
    """What is left out of a dict of dicts is said."""
    logging.getLogger("lsengine").propagate = True
    path = write(tmp_path / "a.pt", FOUND["parts"](state))
    with caplog.at_level(logging.WARNING, "lsengine"):
        assert_same(taken(path), state)
    assert "left out: critic" in caplog.text


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


def test_nesting_is_bounded(tmp_path, state, monkeypatch):
    """Twenty thousand levels, and a dict that is in itself twice at every level."""
    deep = wide = {"state_dict": state}
    for _ in range(300):
        deep = {"a": deep}
    refused(write(tmp_path / "a.pt", deep), "is not read: it is nested more than 64 deep")
    wide = {}
    for _ in range(50):
        wide = {"a": wide, "b": [wide, wide]}
    assert_same(taken(write(tmp_path / "b.pt", {"state_dict": state, "wide": wide})), state)
    monkeypatch.setattr(state_dicts, "_MOST_TENSORS", 5)
    refused(tmp_path / "b.pt", "is not read: it has more than 5 tensors")


def test_names_are_bounded(tmp_path):
    """One of many parts takes its square; integers of many digits are names, too."""
    refused(write(tmp_path / "a.pt", {"a." * 5000: torch.ones(1)}), "a name of 10,000 characters")
    refused(write(tmp_path / "b.pt", {5: torch.ones(1)}), "unexpected: 5")


@pytest.mark.parametrize("shape", [(1,) * 33, (0, 2**60, 1)], ids=["axes", "length"])
def test_axes_are_bounded(tmp_path, state, shape):
    """HDF5 has no room for more axes, and NumPy multiplies their lengths, also those of nothing."""
    path = write(tmp_path / "a.pt", state | {"more": torch.zeros(shape)})
    refused(path, "is not read: it has a tensor of the shape")


def test_copies_by_the_thousand_are_told_apart_in_time(tmp_path, state):
    """Where a word is part of many names, none of them is meant."""
    copies = {f"a_ema{number}_ema": dict(state) for number in range(500)}
    path = write(tmp_path / "a.pt", {"model": state, **copies})
    assert_same(taken(path), state)
    refused(path, "has no ema that is one state dict", checkpoint_key="ema")
