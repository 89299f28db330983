"""How far a training was when it wrote a checkpoint, and other numbers beside the parameters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lsengine.models import checkpoint_files, state_dicts

_EPOCH = ("epoch", "current_epoch", "cur_epoch", "epoch_num", "n_epoch")
_STEP = (
    "global_step",
    "global_steps",
    "step",
    "steps",
    "iteration",
    "iter",
    "it",
    "num_updates",
    "global_iter",
    "current_step",
    "cur_iter",
    "n_iter",
    "niter",
    "num_steps",
)
_BEYOND_EPOCHS, _BEYOND_FLOATS = 2**53, 2**1023
_INNER = ("meta", "metadata", "trainer_state", "train_state", "progress", "info", "extra_state")


def numbers(tree: Any, path: Path) -> dict[str, float]:
    """Return the numbers at the top of a checkpoint, or in what it says about itself.

    Such as ``epoch`` (an int) and ``test_error``.  Hugging Face's trainer writes them into a file
    beside it.
    """
    if not isinstance(tree, Mapping):
        tree = {}
    sections = [checkpoint_files.beside(path)]
    sections += [tree[name] for name in _INNER if isinstance(tree.get(name), Mapping)]
    found: dict[str, float] = {}
    for section in sections:
        progress = {n: v for n, v in _numbers(section).items() if n in (*_EPOCH, *_STEP)}
        found |= progress
    return found | _numbers(tree)


def _numbers(section: Mapping[Any, Any]) -> dict[str, float]:
    """Return the numbers by name, without those that no float can hold."""
    found: dict[str, float] = {}
    names = {name for name, value in section.items() if isinstance(value, Tensor)}
    is_bare = bool(names - {*_EPOCH, *_STEP})  # then they are buffers of the network
    for name, value in section.items():
        if isinstance(value, bool):
            continue
        if isinstance(value, Tensor):
            is_one = state_dicts.holds_numbers(value) and value.numel() == 1
            if is_one and not (is_bare or value.is_complex()):
                found[str(name)] = value.item()
        elif isinstance(value, float) or (isinstance(value, int) and abs(value) < _BEYOND_FLOATS):
            found[str(name)] = value
        elif isinstance(value, str) and name in (*_EPOCH, *_STEP) and _is_number(value):
            found[str(name)] = int(value)
    return found


def _is_number(text: str) -> bool:
    return len(text) < 20 and text.isascii() and text.isdecimal()


def epoch_of(numbers: Mapping[str, float]) -> int | None:
    """Return the epoch among a checkpoint's numbers, if it is there and whole."""
    return _whole(numbers, _EPOCH)


def step_of(numbers: Mapping[str, float]) -> int | None:
    """Return the step of the optimizer among a checkpoint's numbers, if it is there and whole."""
    return _whole(numbers, _STEP)


def _whole(numbers: Mapping[str, float], names: tuple[str, ...]) -> int | None:
    for name in names:
        value = numbers.get(name)
        if value is not None and float(value).is_integer() and abs(value) < _BEYOND_EPOCHS:
            return int(value)
    return None
