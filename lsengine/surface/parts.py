"""Which parameters move along a direction, how far, which stay, and why."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lsengine.wording import listed

Roles = Mapping[str, Collection[str]]  # of the words of `ROLES`, the names
ROLES = ("bias", "norm", "one_axis", "frozen")
_NOT_IN_DIRECTION = "not in it"
_NOT_CHOSEN = "not in only"
_STATISTICS = " statistics"
KINDS = ("weights", "biases", "norm", "statistics")
_CHUNK = 2**20


@dataclass(frozen=True, slots=True)
class Selection:
    """Which parameters are meant: those of ``only``, without it all, less those of ``ignore``.

    An entry of either is the word of a role, or a pattern of names such as ``layer1.*``.
    """

    only: tuple[str, ...] | None = None
    ignore: tuple[str, ...] = ()

    @classmethod
    def said(cls, only: Sequence[str] | None, ignore: Sequence[str]) -> Selection:
        """Return what a section of a job says."""
        return cls(None if only is None else tuple(only), tuple(ignore))

    def reason(self, name: str, roles: Roles) -> str | None:
        """Return why a parameter is left out: the first word of ``ignore``, or ``not in only``.

        None if it is meant.
        """
        if self.only is not None and not any(fits(name, word, roles) for word in self.only):
            return _NOT_CHOSEN
        return next((word for word in self.ignore if fits(name, word, roles)), None)

    def of(self, names: Iterable[str], roles: Roles) -> list[str]:
        """Return the names that are meant, in their order."""
        return [name for name in names if self.reason(name, roles) is None]


EVERYTHING = Selection()


def fits(name: str, word: str, roles: Roles) -> bool:
    """Whether the word of a role or a pattern is of a parameter."""
    return name in roles.get(word, ()) or fnmatchcase(name, word)


@dataclass(slots=True, kw_only=True)
class Part:
    """Some of a network's parameters, in its order."""

    names: list[str] = field(default_factory=list)
    numbers: int = 0
    filters: int = 0  # slices along the first axis; a parameter with one axis is one
    single: int = 0  # of them those of one number

    def add(self, name: str, shape: Sequence[int]) -> None:
        """Take in a parameter."""
        count = shape[0] if len(shape) > 1 else 1
        self.names.append(name)
        self.numbers += math.prod(shape)
        self.filters += count
        self.single += count if math.prod(shape) == count else 0

    def as_dict(self) -> dict[str, int]:
        """Return how many parameters, numbers, filters, and filters of one number there are."""
        counts = {"numbers": self.numbers, "filters": self.filters, "single": self.single}
        return {"parameters": len(self.names), **counts}


def parts(
    state: Iterable[Sequence[Any]],
    moved: Collection[str],
    selection: Selection,
    roles: Roles,
    policy: str = "",
) -> dict[str, Part]:
    """Return the parts of a network along a direction: what ``moves``, and by reason what stays.

    ``state`` are name, shape, and whether it is a parameter, of the whole state dict.  What is no
    parameter is spoken of where it moves, as ``moving statistics``, and where it is a running
    statistic and the job's ``policy`` for these is known, as ``frozen statistics``, ``recalibrated
    statistics``, or, of those that the direction does not have, ``kept statistics``.
    """
    found = {"moves": Part()}
    for name, shape, is_parameter in state:
        if is_parameter:
            why = "moves" if name in moved else selection.reason(name, roles) or _NOT_IN_DIRECTION
        elif name in moved:
            why = f"moving{_STATISTICS}"
        elif policy and name in roles.get("norm", ()):
            why = f"{'kept' if policy == 'interpolated' else policy}{_STATISTICS}"
        else:
            continue
        found.setdefault(why, Part()).add(name, shape)
    return found


def text(parts: Mapping[str, Part]) -> str:
    """Return the parts as one line.

    Example:
        >>> moving = {"moves": Part(names=["fc.weight"], numbers=20, filters=2)}
        >>> text(moving | {"bias": Part(names=["fc.bias"])})
        '1 of 2 parameters moves (20 numbers, 2 filters); stays: bias 1 (fc.bias)'
    """
    moves = parts["moves"]
    of_parameters = {w: p for w, p in parts.items() if not w.endswith(_STATISTICS)}
    count = sum(len(part.names) for part in of_parameters.values())
    said = [f"{moves.numbers:,} numbers", f"{moves.filters:,} filters"]
    said += [f"{moves.single:,} of one number"] * (moves.single > 0)
    verb = "moves" if len(moves.names) == 1 else "move"
    phrases = [f"{len(moves.names):,} of {count:,} parameters {verb} ({', '.join(said)})"]
    stays = [
        f"{why} {len(part.names):,} ({listed(part.names, 2)})"
        for why, part in of_parameters.items()
        if part is not moves
    ]
    phrases += [f"stays: {', '.join(stays)}"] if stays else []
    phrases += [
        f"running statistics: {why.removesuffix(_STATISTICS)} {len(part.names):,}"
        for why, part in parts.items()
        if why not in of_parameters
    ]
    return "; ".join(phrases)


@dataclass(frozen=True, slots=True)
class Size:
    """How long a direction is."""

    lengths: dict[str, float]  # Euclidean, by kind of parameter, in the order of `KINDS`
    zero_filters: int = 0  # filters that it has, and does not move

    @property
    def length(self) -> float:
        """The length of all of it."""
        return math.hypot(*self.lengths.values())

    @property
    def share_of_statistics(self) -> float:
        """Which part of the length is running statistics, from 0 to 1.

        Example:
            >>> Size({"weights": 3.0, "statistics": 4.0}).share_of_statistics
            0.8
        """
        return self.lengths.get("statistics", 0.0) / self.length if self.length else 0.0

    def text(self) -> str:
        """Return it as a clause.

        Example:
            >>> Size({"weights": 3.0, "biases": 4.0}, 1).text()
            'length 5: weights 3, biases 4; filters of zeros, which stay: 1'
        """
        by_kind = ", ".join(f"{kind} {length:.3g}" for kind, length in self.lengths.items())
        zero = f"; filters of zeros, which stay: {self.zero_filters:,}" if self.zero_filters else ""
        return f"length {self.length:.3g}: {by_kind}{zero}"


def size(
    direction: Mapping[str, NDArray[Any]], state: Iterable[Sequence[Any]], roles: Roles
) -> Size:
    """Return how long a direction is; ``state`` is that of `parts`.

    Of repeats it is the last one; along a trained curve it is the way to the other end.
    """
    squares = dict.fromkeys(KINDS, 0.0)
    kinds, zeros = set(), 0
    for name, shape, is_parameter in state:
        if name not in direction:
            continue
        values = direction[name][-1] if direction[name].ndim > len(shape) else direction[name]
        kind = _kind(name, roles) if is_parameter else "statistics"
        squares[kind] += _square(values)
        kinds.add(kind)
        if is_parameter and values.size:
            rows = values.reshape(len(values) if values.ndim > 1 else 1, -1)
            zeros += int((~rows.any(axis=1)).sum())
    return Size({kind: math.sqrt(squares[kind]) for kind in KINDS if kind in kinds}, zeros)


def said(parts: Mapping[str, Mapping[str, Part]], sizes: Mapping[str, Size]) -> dict[str, str]:
    """Return by axis what moves, how far and what stays, in words; sizes need not be known."""
    return {
        axis: "; ".join([text(of), *([sizes[axis].text()] if axis in sizes else [])])
        for axis, of in parts.items()
    }


def together(said: Mapping[str, str]) -> dict[str, str]:
    """Return words by axis, or by both if they are the same.

    Example:
        >>> together({"alpha": "moves", "beta": "moves"})
        {'alpha and beta': 'moves'}
    """
    is_same = len(said) > 1 and len(set(said.values())) == 1
    return {" and ".join(said): next(iter(said.values()))} if is_same else dict(said)


def sizes_text(sizes: Mapping[str, Size]) -> str:
    """Return sizes by axis as a surface file keeps them: JSON, lengths to six digits."""
    said = {
        axis: {
            "lengths": {kind: float(f"{length:.6g}") for kind, length in size.lengths.items()},
            "zero_filters": size.zero_filters,
        }
        for axis, size in sizes.items()
    }
    return json.dumps(said, separators=(",", ":"))


def sizes(attributes: Mapping[str, Any]) -> dict[str, Size]:
    """Return sizes by axis, as far as a surface's attributes have them."""
    said = json.loads(attributes.get("direction_sizes", "{}"))
    return {axis: Size(of["lengths"], of["zero_filters"]) for axis, of in said.items()}


def _kind(name: str, roles: Roles) -> str:
    if name in roles.get("norm", ()):
        return "norm"
    return "biases" if name in roles.get("bias", ()) else "weights"


def _square(values: NDArray[Any]) -> float:
    """Return the sum of squares in float64, without a copy of all numbers in it."""
    flat = values.reshape(-1)
    pieces = (
        np.abs(flat[at : at + _CHUNK]).astype(np.float64) for at in range(0, flat.size, _CHUNK)
    )
    return sum(float((piece * piece).sum()) for piece in pieces)


def roles_text(roles: Roles) -> str:
    """Return roles as a surface file keeps them: JSON, names sorted; ``frozen`` if any is."""
    known = {w: sorted(roles.get(w, ())) for w in ROLES if w != "frozen" or roles.get(w)}
    return json.dumps(known, separators=(",", ":"))
