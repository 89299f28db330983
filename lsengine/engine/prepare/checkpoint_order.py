"""In what order a training wrote its checkpoints: by what they say, else by their names."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

from lsengine.errors import UsageError
from lsengine.models import checkpoint
from lsengine.wording import listed

Unit = Literal["epoch", "step", "number", "place"]

_NUMBER = re.compile(r"(\d+(?:\.\d+)?(?:[eE][+-]\d+)?)")
_UNIT = re.compile(r"[kKmMbBgG](?![a-zA-Z])")  # 10k is more than 500
_WORDS: dict[str, Unit] = dict.fromkeys(("epoch", "epochs", "ep", "e"), "epoch")
_WORDS |= dict.fromkeys(("step", "steps", "iter", "iters", "iteration", "it", "updates"), "step")
# What numbers do not count time, and which words before a number say nothing of it.
_METRICS = ("loss", "acc", "accuracy", "val", "score", "err", "error", "top", "auc", "f", "map")
_NEUTRAL = ("", "checkpoint", "ckpt", "model", "net", "weights", "snapshot", "state")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Checkpoints from the first to the last.

    Attributes:
        numbers: Ascending, all different.
        unit: What the numbers are; ``place`` if they only count the checkpoints.
        is_stated: Whether the checkpoints say it themselves, not their names.
        is_labelled: Whether nothing else is likely to be meant.
    """

    paths: tuple[Path, ...]
    numbers: tuple[int, ...]
    unit: Unit
    is_stated: bool
    is_labelled: bool = True

    def words(self) -> str:
        """Return the order for a log."""
        what = {"place": "epoch and step", "number": "the number"}.get(self.unit, self.unit)
        where = "that they say" if self.is_stated else "in their names"
        is_file = len({p.name for p in self.paths}) == len(self.paths)
        names = [p.name if is_file else f"{p.parent.name}/{p.name}" for p in self.paths]
        pairs = [f"{name} ({n})" for name, n in zip(names, self.numbers, strict=True)]
        shown = pairs if len(pairs) <= 8 else [*pairs[:4], "...", *pairs[-2:]]
        return f"{len(pairs)} checkpoints by {what} {where}: {', '.join(shown)}"


def ordered(numbers: Mapping[Path, Mapping[str, float]], key: str) -> Order:
    """Return the order of checkpoints; ``numbers`` are what each says of itself.

    By epoch, then step, if all say it; else by the first whole number that all names share: at the
    same place, behind the same text.  A number behind ``epoch`` or ``step`` comes first.

    Raises:
        UsageError: With the key, if two are alike, the order is ambiguous, or the names say
            another one than the files.
    """
    paths = list(numbers)
    epochs = {p: checkpoint.epoch_of(numbers[p]) for p in paths}
    steps = {p: checkpoint.step_of(numbers[p]) for p in paths}
    named = _by_name(paths)
    if None in epochs.values() and None in steps.values():
        if isinstance(named, str):
            raise UsageError(f"{key}: {_unstated(epochs, steps)}{named}")
        _refuse_other_order(named, epochs, steps, key)
        return named
    stated = _by_content(paths, epochs, steps, named, key)
    if not isinstance(named, str) and named.is_labelled:
        _refuse_renamed(stated, named, key)
    return stated


def _by_content(
    paths: Sequence[Path],
    epochs: Mapping[Path, int | None],
    steps: Mapping[Path, int | None],
    named: Order | str,
    key: str,
) -> Order:
    e = [n for p in paths if (n := epochs[p]) is not None]
    s = [n for p in paths if (n := steps[p]) is not None]
    has_epochs, has_steps = len(e) == len(paths), len(s) == len(paths)
    if has_epochs and has_steps:
        found = _of_pairs(paths, e, s, is_stated=True)
    else:
        unit: Unit = "epoch" if has_epochs else "step"
        found = _of_one(paths, e if has_epochs else s, unit, is_stated=True)
    if isinstance(found, Order):
        return found
    is_finer = isinstance(named, Order) and named.unit == "step" and has_epochs and not has_steps
    if is_finer and isinstance(named, Order) and _ascends(named, epochs):
        return named
    raise UsageError(f"{key}: {found}")


def _of_one(
    paths: Sequence[Path], numbers: Sequence[int], unit: Unit, *, is_stated: bool
) -> Order | str:
    """Return the order by one number each, or which are alike."""
    pairs = sorted(zip(numbers, paths, strict=True))
    for (first, a), (second, b) in pairwise(pairs):
        if first == second:
            return f"{a} and {b} are both of {unit} {first}; select one of them by the pattern"
    return Order(
        paths=tuple(path for _, path in pairs),
        numbers=tuple(number for number, _ in pairs),
        unit=unit,
        is_stated=is_stated,
    )


def _of_pairs(
    paths: Sequence[Path], epochs: Sequence[int], steps: Sequence[int], *, is_stated: bool
) -> Order | str:
    """Return the order by epoch and step, or which contradict each other."""
    rows = sorted(zip(epochs, steps, paths, strict=True))
    for (e, s, a), (later_e, later_s, b) in pairwise(rows):
        if (e, s) == (later_e, later_s):
            return f"{a} and {b} are both of epoch {e}, step {s}; select one by the pattern"
    is_whole = all(s <= later for (_, s, _), (_, later, _) in pairwise(rows))
    if len(set(epochs)) == len(rows):
        if not is_whole:
            one, two = next((a, b) for a, b in pairwise(rows) if a[1] > b[1])
            return (
                f"{one[2].name} is of epoch {one[0]}, step {one[1]}, and {two[2].name} of epoch "
                f"{two[0]}, step {two[1]}: the order is ambiguous; are they of two trainings?"
            )
        unit: Unit = "epoch"
        numbers = [e for e, _, _ in rows]
    elif is_whole and len(set(steps)) == len(rows):
        unit, numbers = "step", [s for _, s, _ in rows]
    else:  # steps that begin anew in every epoch
        unit, numbers = "place", list(range(len(rows)))
    ordered_paths = tuple(path for _, _, path in rows)
    return Order(paths=ordered_paths, numbers=tuple(numbers), unit=unit, is_stated=is_stated)


def _by_name(paths: Sequence[Path]) -> Order | str:
    """Return the order that the names say, or why they say none."""
    shared = _shared(paths)
    of_unit = {u: [c for _, unit, c in shared if unit == u] for u in ("epoch", "step")}
    epochs, steps = (of_unit[unit][:1] for unit in ("epoch", "step"))
    if epochs and steps:
        return _of_pairs(paths, epochs[0], steps[0], is_stated=False)
    if epochs or steps:
        unit: Unit = "epoch" if epochs else "step"
        return _of_one(paths, (epochs or steps)[0], unit, is_stated=False)
    if len(paths) == 1:
        return Order(paths=(paths[0],), numbers=(0,), unit="place", is_stated=False)
    others = [(word, numbers) for word, _, numbers in shared if word not in _METRICS]
    orders = {tuple(sorted(range(len(paths)), key=lambda i: n[i])) for _, n in others}
    names = listed(sorted(path.name for path in paths), most=4)
    if len(orders) != 1:
        what = "several numbers" if others else "no whole number that all share and that differs"
        return (
            f"the order of the checkpoints is ambiguous: their names have {what} ({names}); call "
            "them alike, such as epoch_001.pt, or write epoch into them"
        )
    word, numbers = others[0]
    found = _of_one(paths, numbers, "number", is_stated=False)
    if isinstance(found, str):
        return found
    return Order(
        paths=found.paths,
        numbers=found.numbers,
        unit="number",
        is_stated=False,
        is_labelled=word in _NEUTRAL,
    )


def _shared(paths: Sequence[Path]) -> list[tuple[str, Unit, list[int]]]:
    """Return whole numbers at the same place behind the same text, with the word before them.

    Those that are the same everywhere are left out, unless there is one checkpoint.
    """
    above = Path(os.path.commonpath([path.parent for path in paths]))
    split = [_NUMBER.split(str(path.relative_to(above))) for path in paths]
    found: list[tuple[str, Unit, list[int]]] = []
    for at in range(1, min(map(len, split)), 2):
        if len({parts[at - 1] for parts in split}) > 1:
            break
        values = [parts[at] for parts in split]
        units = {_UNIT.match(parts[at + 1]) is None or parts[at + 1][0] for parts in split}
        if len(units) > 1:
            break
        if all(value.isdecimal() for value in values) and (
            len(paths) == 1 or len(set(map(int, values))) > 1
        ):
            words = re.findall("[a-z]+", split[0][at - 1].lower())
            word = words[-1] if words else ""
            found.append((word, _WORDS.get(word, "number"), [int(value) for value in values]))
    return found


def _ascends(order: Order, numbers: Mapping[Path, int | None]) -> bool:
    """Whether what some checkpoints say does not fall in an order."""
    known = [n for path in order.paths if (n := numbers[path]) is not None]
    return all(a <= b for a, b in pairwise(known))


def _unstated(epochs: Mapping[Path, int | None], steps: Mapping[Path, int | None]) -> str:
    """Return which of several checkpoints say nothing, where others do."""
    silent = [p.name for p, epoch in epochs.items() if epoch is None and steps[p] is None]
    if len(silent) in (0, len(epochs)):
        return ""
    return f"{listed(silent, most=2)} says neither epoch nor step, others do; "


def _refuse_other_order(
    named: Order,
    epochs: Mapping[Path, int | None],
    steps: Mapping[Path, int | None],
    key: str,
) -> None:
    """Refuse names whose order is not that of the checkpoints that say theirs."""
    for unit, numbers in (("epoch", epochs), ("step", steps)):
        known = [(p, n) for p in named.paths if (n := numbers[p]) is not None]
        for (before, first), (after, second) in pairwise(known):
            if first > second or (first == second and named.unit not in ("step", "place")):
                raise UsageError(
                    f"{key}: {after.name} says that it is of {unit} {second}, {before.name} of "
                    f"{unit} {first}: out of order; were files renamed?"
                )


def _refuse_renamed(stated: Order, named: Order, key: str) -> None:
    """Refuse names that say another order than the checkpoints."""
    rank = {path: number for number, path in enumerate(named.paths)}
    pairs = zip(stated.paths, stated.numbers, strict=True)
    for (first, earlier), (second, later) in pairwise(pairs):
        if rank[first] > rank[second]:
            raise UsageError(
                f"{key}: {second.name} says that it is of {stated.unit} {later}, {first.name} of "
                f"{stated.unit} {earlier}: out of order; were files renamed?"
            )
