"""Which arrays are of which split, and which of them are inputs and which targets."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from lsengine.data.dataset import SPLITS, Split
from lsengine.errors import UsageError
from lsengine.wording import did_you_mean, listed

log = logging.getLogger(__name__)
TARGETS = ("y", "labels", "label", "target", "targets")  # the first one that is there
_SAID = ("classes", "no_label")  # what a factory says beside its arrays


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What a job says of its arrays.

    Attributes:
        inputs: The name of the one that is the input, or the names of several in the order in
            which the network takes them; None for all that are no targets, by their names.
        targets: The name of the targets; None for the first of `TARGETS`.
        needs_targets: Whether there must be some.  Without need all arrays are inputs, unless
            the choice names some, or there are just x and y.
        keeps_targets: Whether targets are inputs, too, by their name.
    """

    inputs: str | Sequence[str] | None = None
    targets: str | None = None
    needs_targets: bool = True
    keeps_targets: bool = False

    def is_target(self, name: str) -> bool:
        """Whether an array of this name is targets, if it is the first."""
        return name == self.targets if self.targets else name in TARGETS


def by_split(arrays: Mapping[Any, Any], where: str) -> dict[str, Any]:
    """Return what there is of each split: of ``mask_train`` or ``train/mask``, by name.

    An entry ``train`` is all of the split, whatever it is.

    Raises:
        UsageError: If there is nothing, or something twice.
    """
    found: dict[str, Any] = {name: arrays[name] for name in SPLITS if name in arrays}
    left_out = [str(key) for key in arrays if key not in (*SPLITS, *_SAID)]
    if not found:
        left_out = []
        for key, value in arrays.items():
            split, name = _taken_apart(str(key))
            if not split:
                left_out += [] if key in _SAID else [str(key)]
            elif name in found.setdefault(split, {}):
                raise UsageError(f"{where}: has {name}_{split} and {split}/{name}; give one")
            else:
                found[split][name] = value
    if not found:
        names = ", ".join(map(str, arrays)) or "nothing"
        raise UsageError(f"{where}: expected x_train and y_train, found {names}")
    if left_out:
        log.warning("%s: arrays of no split are left out: %s", where, listed(left_out, most=4))
    return {name: found[name] for name in SPLITS if name in found}


def _taken_apart(key: str) -> tuple[str, str]:
    """Return split and name of a key; nothing if it has none."""
    for split in SPLITS:
        name = key.removeprefix(f"{split}/")
        if name == key:
            name = key.removesuffix(f"_{split}")
        if name and name != key:
            return split, name
    return "", ""


def pair(batch: Any, choice: Choice, where: str, split: str) -> tuple[Any, Any]:
    """Return what is inputs and what is targets, or None, of all that there is of a split.

    A mapping has names.  Of a tuple or a list of arrays the last is targets: that is so of two in
    any case, of more if they are needed.  Anything else is inputs.  Messages have the name of the
    split, if there is one.

    Raises:
        UsageError: If targets are needed and there are none, or what is named is not there.
    """
    if isinstance(batch, Split):
        x, y = batch.x, batch.y
    elif isinstance(batch, Mapping):
        return _named(batch, choice, where, split)
    elif is_several(batch):
        items = tuple(batch)
        has_targets = len(items) == 2 or (choice.needs_targets and len(items) > 2)
        x, y = (items[:-1], items[-1]) if has_targets else (items, None)
        x = x[0] if len(x) == 1 else x
    else:
        x, y = batch, None
    if choice.keeps_targets and isinstance(x, Mapping):
        return _named(x if y is None else {**x, "labels": y}, choice, where, split)
    if y is None and choice.needs_targets:
        raise UsageError(
            f"{where}: {split or 'it'} has inputs, but no targets; give a pair (inputs, targets), "
            "or use an objective of your own, which needs none"
        )
    return x, y


def is_several(raw: Any) -> bool:
    """Whether a tuple or a list has arrays, and is not one itself.

    Example:
        >>> is_several((np.zeros(2), np.zeros(2))), is_several([[1, 2], [3, 4]])
        (True, False)
    """
    if not isinstance(raw, tuple | list):
        return False
    return any(
        is_several(item)
        or isinstance(item, Mapping)
        or (isinstance(item, np.ndarray | Tensor) and item.ndim > 0)
        for item in raw
    )


def _named(named: Mapping[str, Any], choice: Choice, where: str, split: str) -> tuple[Any, Any]:
    """Return inputs and targets, or None, of a split's arrays by name."""
    asked = [choice.inputs] if isinstance(choice.inputs, str) else [*(choice.inputs or ())]
    target = choice.targets
    if target is None and (choice.needs_targets or asked or set(named) == {"x", "y"}):
        target = next((n for n in TARGETS if n in named and n not in asked), None)
    _check_asked(named, asked, choice.targets, where, split)
    is_kept = choice.keeps_targets and set(named) != {"x", target}
    others = {n: v for n, v in named.items() if n != target or is_kept}
    of = f"_{split}" if split else ""
    if not others:
        raise UsageError(f"{where}: has {target or 'nothing'}{of}, but no x{of}")
    if target is None and choice.needs_targets:
        raise UsageError(
            f"{where}: has {next(iter(named))}{of}, but no y{of}; targets are called "
            f"{', '.join(TARGETS[:-1])} or {TARGETS[-1]}, and an objective needs none"
        )
    y = None if target is None else named[target]
    if isinstance(choice.inputs, str):
        return named[choice.inputs], y
    if asked:
        return tuple(named[name] for name in asked), y
    return (others["x"] if set(others) == {"x"} else others), y


def _check_asked(
    named: Mapping[str, Any], asked: Sequence[str], targets: str | None, where: str, split: str
) -> None:
    """Refuse names of the choice that are not there, or twice."""
    for key, names in (("inputs", asked), ("targets", [targets] if targets else [])):
        for name in names:
            if name not in named:
                raise UsageError(
                    f"data.args.{key}: {where} has no {name} of {split}; it has: "
                    f"{', '.join(map(str, named)) or 'nothing'}{did_you_mean(name, named)}"
                )
    if targets in asked:
        raise UsageError(f"data.args: {targets} is both inputs and targets; it can be one of them")
