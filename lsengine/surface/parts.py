"""Which parameters move along a direction, which stay, and why."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from lsengine.wording import listed

Roles = Mapping[str, Collection[str]]  # of the words of `ROLES`, the names
ROLES = ("bias", "norm", "one_axis", "frozen")
_NOT_IN_DIRECTION = "not in it"
_NOT_CHOSEN = "not in only"


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


@dataclass(slots=True)
class Part:
    """Some of a network's parameters, in its order."""

    names: list[str] = field(default_factory=list)
    numbers: int = 0

    def as_dict(self) -> dict[str, int]:
        """Return how many parameters and numbers there are."""
        return {"parameters": len(self.names), "numbers": self.numbers}


def parts(
    state: Iterable[tuple[str, Iterable[int], bool]],
    moved: Collection[str],
    selection: Selection,
    roles: Roles,
) -> dict[str, Part]:
    """Return the parts of a network along a direction: what ``moves``, and by reason what stays.

    ``state`` are name, shape, and whether it is a parameter, of the whole state dict; what is
    no parameter is spoken of only where it moves.
    """
    found = {"moves": Part()}
    for name, shape, is_parameter in state:
        if name in moved or is_parameter:
            why = "moves" if name in moved else selection.reason(name, roles) or _NOT_IN_DIRECTION
            part = found.setdefault(why, Part())
            part.names.append(name)
            part.numbers += math.prod(shape)
    return found


def text(parts: Mapping[str, Part]) -> str:
    """Return the parts as one line.

    Example:
        >>> both = {"moves": Part(["fc.weight"], 20), "bias": Part(["fc.bias"], 2)}
        >>> text(both)
        'moves 1 of 2 parameters (20 numbers); stays: bias 1 (fc.bias)'
    """
    count = sum(len(part.names) for part in parts.values())
    moves = parts["moves"]
    words = f"moves {len(moves.names):,} of {count:,} parameters ({moves.numbers:,} numbers)"
    stays = [
        f"{why} {len(part.names):,} ({listed(part.names, 2)})"
        for why, part in parts.items()
        if why != "moves"
    ]
    return f"{words}; stays: {', '.join(stays)}" if stays else words


def roles_text(roles: Roles) -> str:
    """Return roles as a surface file keeps them: JSON, names sorted; ``frozen`` if any is."""
    known = {w: sorted(roles.get(w, ())) for w in ROLES if w != "frozen" or roles.get(w)}
    return json.dumps(known, separators=(",", ":"))
