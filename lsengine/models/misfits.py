"""Why a checkpoint does not fit a model, and what to do about it."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence

from lsengine.geometry.parameters import misfit
from lsengine.models.state_dicts import Entry, Expected, Match, holds_numbers, reshaped
from lsengine.wording import listed

_MOST = 1000  # names that are compared with one
_CHECK = "check model.arch and model.args"
# What names of other kinds of checkpoints have in them, and the cure.
_MARKS = {
    "lora_": "it holds LoRA adapters; build the network with them (model.adapter), or merge them "
    "(merge_and_unload in peft) and save the whole",
    "flat_param": "its parameters are flattened (FSDP); save it with StateDictType.FULL_STATE_DICT",
    "_packed_params": "it is quantised; save the network before it is quantised",
    "weight_orig": "it is pruned; call torch.nn.utils.prune.remove before saving",
    "parametrizations": "it has parametrisations; call "
    "torch.nn.utils.parametrize.remove_parametrizations before saving, or build the network with "
    "them",
    "weight_g": "it has weight normalisation; call torch.nn.utils.remove_weight_norm before "
    "saving, or build the network with it",
}


def places(entries: Sequence[Entry]) -> list[str]:
    """Return the dicts that hold tensors, those of optimizers left out."""
    found = dict.fromkeys(entry.place for entry in entries)
    return [place for place in found if place and "optim" not in place]


def explained(best: Match | None, entries: Sequence[Entry], expected: Expected) -> str:
    """Return what does not fit, as the end of a sentence, of the match that is nearest."""
    if best is None or (best.outside and best.prefix.rpartition(".")[2].isdecimal()):
        counts = Counter(entry.place for entry in entries)
        fullest = max(places(entries) or [""], key=counts.__getitem__)
        others = [entry for entry in entries if entry.place == fullest]
        best = Match(prefix=fullest, used={}, missing=list(expected.needed), unexpected=others)
    odd = [n for n, e in best.used.items() if not holds_numbers(e.tensor)]
    if odd:
        return f"holds no plain numbers for {listed(odd)}; save the network as it is in memory"
    if best.outside and not (best.missing or best.unexpected or reshaped(best, expected)):
        return _of_part(best)
    found = {best.relative(entry): entry.tensor for entry in best.unexpected}
    found |= {name: entry.tensor for name, entry in best.used.items()}
    wanted = {n: t for n, t in expected.tensors.items() if n in best.used or n in best.missing}
    under = f" under {best.prefix}" if best.prefix and best.used else ""
    text = f"does not fit the model: {misfit(found, wanted)}"
    text += f"; of the model's {len(expected.tensors)} names {len(best.used)} are there{under}"
    return f"{text}{_nearest(best, expected)}; {_advice(best, entries, expected)}"


def _of_part(best: Match) -> str:
    """Return what a state dict has besides the network."""
    place = best.outside[0].place
    prefix = best.prefix.removeprefix(place).removeprefix(".") if place else best.prefix
    names = listed(entry.name for entry in best.outside)
    return (
        f"has the model's names under {best.prefix}, and others beside: {names}; if the network is "
        f'that part alone, say model.strip_prefix: "{prefix}."'
    )


def _nearest(best: Match, expected: Expected) -> str:
    """Return the names of the file that are most like the first that are missing."""
    pairs = []
    for name in best.missing[:20]:
        shape = expected.tensors[name].shape
        alike = [best.relative(e) for e in best.unexpected if e.tensor.shape == shape][:_MOST]
        if near := difflib.get_close_matches(name, alike, n=1, cutoff=0.6):
            pairs.append(f"{name} ({near[0]})")
    return f"; nearest in the file: {listed(pairs, most=3)}" if pairs else ""


def _advice(best: Match, entries: Sequence[Entry], expected: Expected) -> str:
    names = [entry.full for entry in entries]
    for mark, cure in _MARKS.items():
        if any(mark in name for name in names) and not any(mark in n for n in expected.tensors):
            return cure
    sizes = {name: (best.used[name].tensor, expected.tensors[name]) for name in best.used}
    if any(t.numel() == 0 != own.numel() for t, own in sizes.values()):
        return (
            "empty tensors are parts of other ranks (DeepSpeed ZeRO stage 3, FSDP); write the "
            "whole with zero_to_fp32.py, or a full state dict"
        )
    if best.missing or best.unexpected:
        others = [p for p in places(entries) if not f"{best.prefix}.".startswith(f"{p}.")]
        keys = f"; model.checkpoint_key chooses among {listed(others)}" if others else ""
        return f"{_CHECK}{keys}"
    return _of_outputs(best, expected) or (
        "the factory's arguments give other shapes; check model.args"
    )


def _of_outputs(best: Match, expected: Expected) -> str:
    """Return what to do where only the number of outputs differs, empty if more does."""
    counts = set()
    for name in reshaped(best, expected):
        theirs, ours = best.used[name].tensor.shape, expected.tensors[name].shape
        if len(theirs) != len(ours) or not ours or theirs[1:] != ours[1:]:
            return ""
        counts.add((theirs[0], ours[0]))
    if len(counts) != 1 or all(expected.tensors[n].ndim < 2 for n in reshaped(best, expected)):
        return ""
    theirs_count, ours_count = counts.pop()
    if theirs_count < ours_count:
        return f"the checkpoint has {theirs_count} outputs; check the labels, or model.args"
    return (
        f"the checkpoint has {theirs_count} outputs and the network {ours_count}: where the "
        f"labels show fewer classes than there are, say data.args.classes: {theirs_count} (a data "
        f"set of your own returns classes: {theirs_count}); else see model.args"
    )
