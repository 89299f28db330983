"""Which parameters move along a direction, which stay, and why."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from lsengine.wording import listed

Roles = Mapping[str, Collection[str]]  # of the words of `ROLES`, the names
ROLES = ("bias", "norm", "one_axis")
_NOT_IN_DIRECTION = "not in it"


def reason(name: str, ignore: Iterable[str], roles: Roles) -> str | None:
    """Return the first entry of ``ignore`` that leaves a parameter out; None if none does.

    An entry is the word of a role, or a pattern of names such as ``layer1.*``.
    """
    for word in ignore:
        if name in roles.get(word, ()) or fnmatchcase(name, word):
            return word
    return None


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
    ignore: Collection[str],
    roles: Roles,
) -> dict[str, Part]:
    """Return the parts of a network along a direction: what ``moves``, and by reason what stays.

    ``state`` are name, shape, and whether it is a parameter, of the whole state dict; what is
    no parameter is spoken of only where it moves.
    """
    found = {"moves": Part()}
    for name, shape, is_parameter in state:
        if name in moved or is_parameter:
            why = "moves" if name in moved else reason(name, ignore, roles) or _NOT_IN_DIRECTION
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
    """Return roles as a surface file keeps them: JSON, names sorted."""
    known = {word: sorted(roles.get(word, ())) for word in ROLES}
    return json.dumps(known, separators=(",", ":"))


def read_roles(text: str) -> Roles:
    """Return what `roles_text` has made; nothing of a file that does not say it."""
    try:
        content: Any = json.loads(text)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
