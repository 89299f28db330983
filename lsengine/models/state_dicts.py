"""State dicts found in a checkpoint by content, and their names matched with a model's.

A *place* is the dotted path of a dict in a checkpoint.  A *full name* is a place and a name in it.
A *part* of a name is what stands between two dots.  All names of a state dict may have a prefix
that the model's have not, or the other way round; and single names may have parts that only one
side knows, such as those of wrappers.  Neither is a matter of a list: both come from comparing.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lsengine.geometry.parameters import Parameters
from lsengine.models.pickle_values import Unsound
from lsengine.wording import short

COUNTER = "num_batches_tracked"  # files older than torch 0.4.1 have none
_MOST_VALUES = 10_000_000  # in dicts and lists, at every place where they are
_MOST_LEVELS = 500_000  # beginnings and ends of dicts and lists, likewise
_MOST_TENSORS = 200_000
_DEEPEST = 64  # dicts in dicts
_MOST_NAME, _MOST_PARTS = 1000, 100  # characters of a full name, and dots in it
_MOST_AXES, _MOST_NUMBERS = 32, 2**59  # HDF5 has no more axes; NumPy counts empty axes as 1
_NODES = (Mapping, list, tuple)
# Parts of a path that say nothing of which of several state dicts it is.
_PLAIN = {"state_dict", "model_state_dict", "net_state_dict", "model_state", "model", "net"}
_PLAIN |= {"network", "module", "weights", "params", "parameters", "state", "app", "_orig_mod"}
_PLAIN |= {"_fsdp_wrapped_module", "_forward_module", "_checkpoint_wrapped_module"}
_NO_NUMBERS = ("torch.bits", "torch.float4")  # types with which torch does not compute
_MOST_GROUPS = 64  # that are looked at closely


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a checkpoint."""

    place: str
    name: str
    tensor: Tensor

    @property
    def full(self) -> str:
        """Place and name."""
        return f"{self.place}.{self.name}" if self.place else self.name


@dataclass(slots=True, kw_only=True)
class Match:
    """Tensors of a checkpoint, by the model's names for them.

    Attributes:
        prefix: What their full names begin with, without a dot at the end.
        used: By the model's name.
        missing: Names of the model that are not there.
        unexpected: What else begins with the prefix in the same dicts.
        outside: Numbers in the same dicts that do not begin with the prefix.
        apart: Dicts beside several that are used together, those of optimizers left out.
    """

    prefix: str
    used: dict[str, Entry]
    missing: list[str] = field(default_factory=list)
    unexpected: list[Entry] = field(default_factory=list)
    outside: list[Entry] = field(default_factory=list)
    apart: list[str] = field(default_factory=list)

    @property
    def is_plain(self) -> bool:
        """Whether the prefix says nothing of which of several state dicts it is."""
        return all(part in _PLAIN for part in _parts(self.prefix))

    def relative(self, entry: Entry) -> str:
        """Return a full name without the prefix."""
        return entry.full.removeprefix(f"{self.prefix}.") if self.prefix else entry.full


@dataclass(frozen=True, slots=True)
class Expected:
    """What a model wants.

    Attributes:
        tensors: Parameters and buffers by name.
        needed: The names that must be there.
        ties: By name all names of the same tensor, where there are several.
    """

    tensors: Parameters
    needed: Collection[str]
    ties: Mapping[str, Sequence[str]]


def entries(tree: Any) -> list[Entry]:
    """Return all tensors of nested dicts that have a name; each loop is walked once.

    Sparse tensors are made dense.

    Raises:
        Unsound: If there are too many or too deep ones, a name is too long, one has too many or
            too long axes, or the indices of a sparse tensor are not within it.
    """
    if not isinstance(tree, Mapping):
        return []
    found: list[Entry] = []
    seen = opened = 0
    levels = [_Level.of(tree, "", 0)]
    above = {id(tree)}
    while levels:
        level = levels[-1]
        for name, value in level.items:
            seen += 1
            if isinstance(value, Tensor) and level.is_named:
                found.append(Entry(level.place, _checked(str(name)), _dense(value)))
            elif isinstance(value, _NODES) and id(value) not in above:
                levels.append(_Level.of(value, _joined(level.place, str(name)), len(found)))
                above.add(id(value))
                break
        else:
            levels.pop()
            if len(found) > level.before:  # what has no tensors is not walked again
                above.discard(level.identity)
        opened += 1
        if seen > _MOST_VALUES or opened > _MOST_LEVELS or len(found) > _MOST_TENSORS:
            raise Unsound(f"it has more than {_MOST_TENSORS:,} tensors, or too much beside them")
        if len(levels) > _DEEPEST:
            raise Unsound(f"it is nested more than {_DEEPEST} deep")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Level:
    """A dict or a list that is being walked."""

    items: Iterator[tuple[Any, Any]]
    is_named: bool
    place: str
    identity: int
    before: int  # tensors found

    @classmethod
    def of(cls, node: Any, place: str, before: int) -> _Level:
        is_named = isinstance(node, Mapping)
        items = node.items() if is_named else enumerate(node)
        return cls(
            items=iter(items), is_named=is_named, place=place, identity=id(node), before=before
        )


def _joined(place: str, name: str) -> str:
    return _checked(f"{place}.{name}" if place else name)


def _checked(name: str) -> str:
    if len(name) > _MOST_NAME or name.count(".") > _MOST_PARTS:
        raise Unsound(f"it has a name of {len(name):,} characters, {name[:40]}...")
    return name


def _dense(tensor: Tensor) -> Tensor:
    """Return a tensor without its history, a sparse one with all its zeros."""
    if tensor.ndim > _MOST_AXES or math.prod(n or 1 for n in tensor.shape) > _MOST_NUMBERS:
        raise Unsound(f"it has a tensor of the shape {short([*tensor.shape])}")
    if not tensor.is_sparse:
        return tensor.detach()
    try:
        checked = torch.sparse_coo_tensor(
            tensor._indices(), tensor._values(), tensor.shape, check_invariants=True
        )
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise Unsound(f"it has a damaged sparse tensor: {reason}") from error
    return checked.detach().to_dense()


def holds_itself(tree: Any) -> bool:
    """Whether nested dicts have a loop."""
    above: set[int] = set()
    done: set[int] = set()
    steps = [(tree, True)]
    while steps:
        node, is_begun = steps.pop()
        if not is_begun:
            above.discard(id(node))
            done.add(id(node))
            continue
        if id(node) in above:
            return True
        if isinstance(node, Mapping) and id(node) not in done:
            above.add(id(node))
            steps.append((node, False))
            steps += [(value, True) for value in node.values()]
    return False


def matches(found: Sequence[Entry], expected: Expected) -> list[Match]:
    """Return all ways in which tensors of a checkpoint have a model's names, the best first.

    The first may be complete: nothing is missing, unexpected, outside or of another shape.
    """
    known = {part for entry in found for part in _parts(entry.full)}
    ways: dict[tuple[tuple[str, int], ...], Match] = {}
    for names in _spellings(list(expected.tensors), known):
        for prefix, used in _groups(found, names).items():
            match = _match(prefix, {names[n]: e for n, e in used.items()}, found, expected)
            identity = tuple(sorted((n, id(e)) for n, e in match.used.items()))
            ways.setdefault(identity, match)
    whole = [m for m in ways.values() if not m.missing and not reshaped(m, expected)]
    # A copy beside is no part of the network; what has a number is: a layer of several.
    copies = [m for m in whole if not m.prefix.rpartition(".")[2].isdecimal()]
    claimed = {id(entry) for match in copies for entry in match.used.values()}
    for match in ways.values():
        match.unexpected = [e for e in match.unexpected if id(e) not in claimed]
        match.outside = [e for e in match.outside if id(e) not in claimed]
    return sorted(ways.values(), key=lambda match: _defects(match, expected))


def fits(match: Match, expected: Expected) -> bool:
    """Whether a match is complete."""
    others = match.missing or match.unexpected or match.outside
    is_numeric = all(holds_numbers(entry.tensor) for entry in match.used.values())
    return is_numeric and not others and not reshaped(match, expected)


def reshaped(match: Match, expected: Expected) -> list[str]:
    """Return the names whose tensors have another shape in the model."""
    return [n for n, e in match.used.items() if e.tensor.shape != expected.tensors[n].shape]


def same(first: Match, second: Match) -> bool:
    """Whether two matches have the same numbers."""
    pairs = [(entry.tensor, second.used.get(name)) for name, entry in first.used.items()]
    return all(other is not None and equal(tensor, other.tensor) for tensor, other in pairs)


def equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have the same numbers; NaN equals NaN."""
    if a.shape != b.shape:
        return False
    return bool(((a == b) | ((a != a) & (b != b))).all())


def chosen(found: Sequence[Entry], key: str) -> list[Entry]:
    """Return the entries below a dotted path, without it; empty if there is none.

    A path that is not there may be the end of one that is, or a word of its last part, if only
    one is.
    """
    for heads in _heads(found, key):
        if len(heads) == 1:
            (head,) = heads
            return [_below(e, head) for e in found if e.full.startswith(f"{head}.")]
        if heads:
            return []
    return []


def _heads(found: Sequence[Entry], key: str) -> Iterator[set[str]]:
    """Yield by falling likeness the paths that a key may mean."""
    paths: set[str] = set()
    for entry in found:
        parts = _parts(entry.full)[:-1]
        paths.update(".".join(parts[:i]) for i in range(1, len(parts) + 1))
    yield {path for path in paths if path == key}
    yield {path for path in paths if path.endswith(f".{key}")}
    named = {path for path in paths if key in path.rpartition(".")[2].split("_")}
    yield {path for path in named if named.isdisjoint(_above(path))}


def _above(path: str) -> Iterator[str]:
    """Yield the paths that a path is below."""
    while path := path.rpartition(".")[0]:
        yield path


def _below(entry: Entry, head: str) -> Entry:
    rest = entry.full.removeprefix(f"{head}.")
    if entry.place == head or entry.place.startswith(f"{head}."):
        return Entry(entry.place.removeprefix(head).removeprefix("."), entry.name, entry.tensor)
    return Entry("", rest, entry.tensor)


def stripped(found: Sequence[Entry], prefix: str) -> list[Entry]:
    """Return the entries without a prefix of their names; others of the same dict are dropped."""
    having = {entry.place for entry in found if entry.name.startswith(prefix)}
    kept = [e for e in found if e.place not in having or e.name.startswith(prefix)]
    return [Entry(e.place, e.name.removeprefix(prefix).removeprefix("."), e.tensor) for e in kept]


def _parts(name: str) -> list[str]:
    return name.split(".") if name else []


def _spellings(names: Sequence[str], known: Collection[str]) -> Iterator[dict[str, str]]:
    """Yield the model's names as a file may have them, each to the model's own name.

    As they are; without the parts that the file does not know; without what all begin with.
    """
    yield {name: name for name in names}
    short = {_without(_parts(name), known): name for name in names}
    if len(short) == len(names) and "" not in short:
        yield short
    split = [_parts(name) for name in names]
    depth = 0
    while names and len({tuple(parts[: depth + 1]) for parts in split}) == 1:
        depth += 1
        if min(map(len, split)) <= depth:
            return
        yield {".".join(parts[depth:]): ".".join(parts) for parts in split}


def _groups(found: Sequence[Entry], names: Collection[str]) -> dict[str, dict[str, Entry]]:
    """Return by prefix the entries that have one of the names behind it.

    Parts that no name has do not count, except at the beginning, where they are of the prefix.
    Two entries of one name make their prefix void.
    """
    parts_known = {part for name in names for part in _parts(name)}
    groups: dict[str, dict[str, tuple[Entry, bool]]] = {}
    void: set[str] = set()
    for entry in found:
        parts = _parts(entry.full)
        for i, part in enumerate(parts):
            if part not in parts_known:
                continue
            rest = ".".join(parts[i:])
            name = rest if rest in names else _without(parts[i:], parts_known)
            if name not in names:
                continue
            prefix, is_exact = ".".join(parts[:i]), name == rest
            group = groups.setdefault(prefix, {})
            if name in group and group[name][1] == is_exact:
                void.add(prefix)
            if name not in group or is_exact:
                group[name] = entry, is_exact
    sound = {prefix: group for prefix, group in groups.items() if prefix not in void}
    largest = sorted(sound, key=lambda prefix: -len(sound[prefix]))[:_MOST_GROUPS]
    return {p: {name: entry for name, (entry, _) in sound[p].items()} for p in largest}


def _without(parts: Sequence[str], known: Collection[str]) -> str:
    """Return a name without unknown parts; empty if its last, the tensor's own, is one."""
    return ".".join(part for part in parts if part in known) if parts[-1] in known else ""


def _match(
    prefix: str, used: dict[str, Entry], found: Sequence[Entry], expected: Expected
) -> Match:
    """Return the match of what has been found under a prefix, and what it lacks."""
    ids = {id(entry) for entry in used.values()}
    for name, tied in expected.ties.items():
        present = next((other for other in tied if other in used), None)
        if name not in used and present is not None:
            used[name] = used[present]
    absent = [n for n in expected.tensors if n not in used and n in expected.needed]
    missing = [n for n in absent if n.rpartition(".")[2] != COUNTER]
    match = Match(prefix=prefix, used=used, missing=missing)
    homes = {entry.place for entry in used.values()}
    is_one = len(homes) == 1  # else a dict of dicts, all of which count
    apart: dict[str, None] = {}
    for entry in found:
        if id(entry) in ids or (entry.place not in homes and (is_one or "optim" in entry.place)):
            continue
        if entry.place not in homes and not prefix:
            apart[entry.place] = None
            continue
        if not prefix or entry.full.startswith(f"{prefix}."):
            match.unexpected.append(entry)
        elif entry.place in homes and (
            entry.tensor.is_floating_point() or entry.tensor.is_complex()
        ):
            match.outside.append(entry)
    match.apart = [*apart]
    return match


def _defects(match: Match, expected: Expected) -> tuple[int, int, int, bool, int]:
    """Return by how much a match is worse than others, in the order in which it counts."""
    right = len(match.used) - len(reshaped(match, expected))
    others = len(match.unexpected) + len(match.outside)
    return -right, -len(match.used), others, not match.is_plain, len(_parts(match.prefix))


def holds_numbers(tensor: Tensor) -> bool:
    """Whether a tensor holds plain numbers in memory."""
    is_there = not tensor.is_quantized and tensor.device.type != "meta"
    is_there = is_there and not str(tensor.dtype).startswith(_NO_NUMBERS)
    return is_there and tensor.layout == torch.strided
