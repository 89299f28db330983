"""Checkpoints: parameters read from files of many habits, and written in one.

In all functions ``key`` is the key path of the file in the job, for messages.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lsengine import files
from lsengine.errors import UsageError
from lsengine.job.schema import ModelSpec
from lsengine.models import checkpoint_files, library_names, own_loading, progress, state_dicts
from lsengine.models.checkpoint_files import digest as digest
from lsengine.models.checkpoint_files import read as read
from lsengine.models.misfits import explained, places
from lsengine.models.pickle_values import Unsound
from lsengine.models.progress import epoch_of as epoch_of
from lsengine.models.progress import step_of as step_of
from lsengine.models.state_dicts import Entry, Expected, Match
from lsengine.wording import listed

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
        path: A file or a folder.
        entries: All tensors, on the CPU, as far as the job's keys select them.
        note: What to know about the selection where nothing fits.
        lacks_key: Whether it is a state dict alone, and does not have the job's key.
        epoch: If the file says it.
        numbers: Other numbers by name, such as ``test_error``.
    """

    path: Path
    entries: Sequence[Entry]
    note: str = ""
    lacks_key: bool = False
    epoch: int | None = None
    numbers: dict[str, float] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """SHA-256 of the file (hex)."""
        return digest(self.path)

    @property
    def state(self) -> dict[str, Tensor]:
        """Parameters and buffers by name, without a model to compare with.

        Of several state dicts the plainest, then the largest; without prefixes of wrappers.

        Raises:
            UsageError: If a tensor holds no plain numbers, such as a quantised one.
        """
        by_place: dict[str, dict[str, Tensor]] = {}
        for entry in self.entries:
            by_place.setdefault(entry.place, {})[entry.name] = entry.tensor

        def rank(place: str) -> tuple[bool, int]:
            return Match(prefix=place, used={}).is_plain, sum(
                t.numel() for t in by_place[place].values()
            )

        state = by_place[max(by_place, key=rank)]
        if odd := [name for name, tensor in state.items() if not state_dicts.holds_numbers(tensor)]:
            why = f"holds no plain numbers for {listed(odd)}; save the network as it is in memory"
            raise UsageError(f"{self.path} {why}")
        names = [name.replace("_orig_mod.", "") for name in state]
        if all(name.startswith("module.") for name in names):
            names = [name.removeprefix("module.") for name in names]
        return dict(zip(names, state.values(), strict=True))


def load(path: Path, *, key: str = "model.checkpoint", spec: ModelSpec | None = None) -> Checkpoint:
    """Read a checkpoint without running any code that it may contain.

    Understands files of torch (.pt, .pth, .ckpt, .t7, in the formats before and after 1.6) and of
    safetensors, indices of several files, and the folders that `lsengine.job.checkpoint_paths`
    lists.  State dicts are found by content, however deep.  ``spec`` says which one is meant, and
    what its names begin with.

    Raises:
        UsageError: If it cannot be read, is damaged, holds no parameters, or needs code.
    """
    content = checkpoint_files.content(path, key=key)
    try:
        entries = state_dicts.entries(content.tree)
    except Unsound as error:
        raise UsageError(f"{key}: {path} is not read: {error}") from None
    if not entries:
        _refuse_hollow(path, content, key)
    note, lacks_key = "", False
    if spec is not None:
        entries, lacks_key = _selected(entries, spec, path, key)
        entries, note = _stripped(entries, spec)
    numbers = progress.numbers(content.tree, path)
    return Checkpoint(
        path=path,
        entries=entries,
        note=note,
        lacks_key=lacks_key,
        epoch=epoch_of(numbers),
        numbers={k: float(v) for k, v in numbers.items() if k != "epoch"},
    )


def _refuse_hollow(path: Path, content: checkpoint_files.Content, key: str) -> None:
    if content.passed_over:
        raise UsageError(checkpoint_files.needs_code(path, key, list(content.passed_over)))
    found = f"one {type(content.tree).__name__}"
    if isinstance(content.tree, Mapping):
        found = listed(str(name)[:100] for name in content.tree) or "nothing"
        if state_dicts.holds_itself(content.tree):
            found = "a dict that holds itself"
    raise UsageError(
        f"{key}: {path} holds no parameters; found: {found}; expected a state dict, alone or in "
        f"a dict"
    )


def _selected(
    entries: list[Entry], spec: ModelSpec, path: Path, key: str
) -> tuple[list[Entry], bool]:
    """Return what the key of a job selects, and whether all is left because nothing is nested."""
    if spec.checkpoint_key is None:
        return entries, False
    if chosen := state_dicts.chosen(entries, spec.checkpoint_key):
        return chosen, False
    if any(entry.place for entry in entries):
        raise UsageError(
            f"model.checkpoint_key: {key}: {path} has no {spec.checkpoint_key} that is one state "
            f"dict; it has: {listed(places(entries), most=10)}"
        )
    return entries, True


def _stripped(entries: list[Entry], spec: ModelSpec) -> tuple[list[Entry], str]:
    """Return entries without the prefix of a job, and what to know where nothing fits."""
    if spec.strip_prefix is None:
        return entries, ""
    if not any(entry.name.startswith(spec.strip_prefix) for entry in entries):
        return entries, f"; no name begins with model.strip_prefix, {spec.strip_prefix}"
    return state_dicts.stripped(entries, spec.strip_prefix), ""


def numbers(path: Path, *, key: str) -> dict[str, float]:
    """Return the numbers that a checkpoint names, without reading its parameters.

    Such as ``epoch`` (an int) and ``test_error``; none of a bare state dict.

    Raises:
        UsageError: As `load`.
    """
    if not path.exists():
        return {}
    return progress.numbers(checkpoint_files.content(path, key=key, tensors=False).tree, path)


def fit(model: nn.Module, checkpoint: Checkpoint, *, key: str) -> None:
    """Load a checkpoint's parameters into a model: all of them, and no others.

    Raises:
        UsageError: As `fitted`; the model is not changed then.
    """
    state = fitted(model, checkpoint, key=key)
    with torch.no_grad():
        for name, tensor in _tensors(model).items():
            tensor.copy_(state[name])
        own_loading.set_extra(model, state)


def fitted(
    model: nn.Module, checkpoint: Checkpoint, *, key: str, needed: Collection[str] | None = None
) -> dict[str, Tensor]:
    """Return a checkpoint's parameters by the model's names for them, in the file's precision.

    Names that the model has for one tensor may be missing but for one.  Counters of batches may be
    missing (files older than torch 0.4.1 have none); then the model's own stay.  If only some
    names are ``needed``, others may be missing, and are left out.

    Raises:
        UsageError: With what is missing, unexpected or of another shape; if several state dicts
            fit and differ; or if names of one tensor have different numbers.
    """
    own, parameters = _tensors(model), dict(model.named_parameters(remove_duplicate=False))
    if lazy := [name for name, tensor in own.items() if is_lazy(tensor)]:
        raise UsageError(f"model.arch: the shape of {listed(lazy)} is not known yet (lazy module)")
    expected = Expected(own, own if needed is None else needed, _ties(model))
    found = state_dicts.matches(checkpoint.entries, expected)
    whole = [match for match in found if state_dicts.fits(match, expected)]
    where = f"{key}: {checkpoint.path}"
    match = _chosen(whole, where, checkpoint.lacks_key) if whole else None
    if own_loading.is_own(model):
        loaded = _own(model, [match] if match else found[:3], bool(match), where, needed)
        if loaded:
            return loaded
    if match is None:
        if loaded := library_names.translated(model, checkpoint.entries, found, where, needed):
            return loaded
        reason = explained(found[0] if found else None, checkpoint.entries, expected)
        raise UsageError(f"{where} {reason}{checkpoint.note}")
    for name, entry in match.used.items():
        _refuse_other_kind(name, entry.tensor, own[name], name in parameters, where)
    for name, tied in expected.ties.items():
        for other in tied:
            if not state_dicts.equal(match.used[name].tensor, match.used[other].tensor):
                raise UsageError(
                    f"{where} does not fit the model: {name} and {other} are one tensor there, "
                    "and differ in the file; check model.args"
                )
    state = {name: match.used[name].tensor for name in own if name in match.used}
    if needed is None:
        return {name: state.get(name, own[name]) for name in own}
    return state


def _own(
    model: nn.Module,
    candidates: Sequence[Match],
    is_whole: bool,
    where: str,
    needed: Collection[str] | None,
) -> dict[str, Tensor]:
    """Return what a model's own way of loading makes of a checkpoint; empty if it refuses.

    Names that the model knows how to change need not fit.

    Raises:
        UsageError: If the names fit, and the model refuses all the same.
    """
    for match in candidates:
        state = {match.relative(entry): entry.tensor for entry in match.unexpected}
        state |= {name: entry.tensor for name, entry in match.used.items()}
        loaded = own_loading.taken_up(model, state, partly=needed is not None)
        if isinstance(loaded, dict):
            names = state if needed is not None else loaded
            if needed is not None and (other := own_loading.other_extra(model, state)):
                raise UsageError(
                    f"{where}: {listed(other)} differs from the centre's, and cannot move as "
                    "tensors do; make it a buffer of the network"
                )
            return {name: loaded[name] for name in loaded if name in names}
        if is_whole:
            raise UsageError(f"{where} is refused by the model's own way of loading: {loaded}")
    return {}


def _chosen(whole: Sequence[Match], where: str, lacks_key: bool) -> Match:
    """Return the match that is meant, and say what has been chosen from what."""
    distinct: list[Match] = []
    for match in sorted(whole, key=lambda match: not match.is_plain):
        if not any(state_dicts.same(match, other) for other in distinct):
            distinct.append(match)
    names = [match.prefix or "those without a prefix" for match in distinct]
    plain = [match for match in distinct if match.is_plain]
    first = distinct[0]
    if len(distinct) > 1 and (len(plain) != 1 or lacks_key):
        raise UsageError(
            f"{where} holds several state dicts that fit the model and differ: {listed(names)}; "
            f"choose one, such as model.checkpoint_key: {names[0]}"
        )
    if len(distinct) > 1:
        _say(
            f"{where}: the parameters are {names[0]}; {listed(names[1:])} would fit as well "
            "and has other numbers (model.checkpoint_key chooses)"
        )
    elif not first.is_plain:
        _say(f"{where}: the parameters are {names[0]}")
    if first.apart:
        log.warning("%s: left out: %s", where, listed(first.apart))
    return first


@lru_cache(maxsize=1000)  # a trajectory's checkpoints are read many times
def _say(text: str) -> None:
    log.info(text)


def _refuse_other_kind(
    name: str, found: Tensor, own: Tensor, is_parameter: bool, where: str
) -> None:
    """Refuse numbers that the model's tensor cannot hold."""
    is_real, has_fractions = found.is_floating_point(), own.is_floating_point() or own.is_complex()
    is_narrow = (
        is_real
        and own.is_floating_point()
        and torch.finfo(own.dtype).max < torch.finfo(found.dtype).max
    )
    if found.is_complex() and not own.is_complex():
        problem = "is complex, and real in the model"
    elif is_parameter and has_fractions and not (is_real or found.is_complex()):
        problem = f"is {_type(found)}, as in quantised networks, and a parameter in the model"
    elif is_real and not has_fractions:
        if state_dicts.equal(found, found.to(own.dtype).to(found.dtype)):
            return
        problem = f"has fractions, and is {_type(own)} in the model"
    elif is_narrow and bool((found.isfinite() & ~found.to(own.dtype).isfinite()).any()):
        problem = f"has numbers beyond {_type(own)}, which it is in the model"
    else:
        return
    raise UsageError(f"{where} does not fit the model: {name} {problem}; check model.args")


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _ties(model: nn.Module) -> dict[str, list[str]]:
    """Return by name all names of the same tensor, where there are several."""
    names: dict[Any, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor):
            names.setdefault(_memory(tensor), []).append(name)
    return {name: tied for tied in names.values() if len(tied) > 1 for name in tied}


def _memory(tensor: Tensor) -> Any:
    """Return what tells tensors of one memory, by which they are the same numbers."""
    if tensor.is_meta or not tensor.numel() or tensor.layout != torch.strided:
        return id(tensor)
    start = tensor.untyped_storage().data_ptr(), tensor.storage_offset()
    return *start, tensor.dtype, tensor.shape, tensor.stride()


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {k: v for k, v in model.state_dict().items() if isinstance(v, Tensor)}


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Return a network's parameters and buffers by name, as they are written."""
    # The order of a tensor's memory is a matter of the device's, not of the checkpoint.
    return {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}


def save(
    path: Path,
    model: nn.Module,
    *,
    epoch: int | None = None,
    content: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Write a checkpoint whole or not at all.

    The folder must exist; an existing file is replaced.  Parameters and buffers go under
    ``state_dict``; ``content`` has more numbers, texts and tensors by name.

    Raises:
        EnvironmentUnfit: If the file cannot be written.
    """
    saved: dict[str, Any] = {**content, "state_dict": state_of(model)}
    if epoch is not None:
        saved["epoch"] = epoch
    write(path, saved)


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write numbers, texts and tensors as a file of torch's, whole or not at all.

    Raises:
        EnvironmentUnfit: If the file cannot be written.
    """
    # In memory first: a file's name would become part of its content.
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    files.write(path, buffer.getbuffer())
