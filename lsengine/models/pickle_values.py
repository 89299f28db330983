"""What is known of a pickle's values when nothing is made of them, and who is asked about calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol


class Unsound(Exception):
    """A file would take too much, or is damaged."""


class Foreign(Exception):
    """A pickle names something that is not known here, and cannot be passed over."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class Named(NamedTuple):
    """A class or function, by its full name."""

    name: str


@dataclass(slots=True, eq=False)
class Made:
    """A value by its kind; ``facts`` are what rules know of it."""

    kind: str
    facts: Any = ()


@dataclass(slots=True, eq=False)
class Row:
    """A tuple, with the number of all that is in it, and how deep."""

    items: list[Any]
    weight: int = 1
    depth: int = 1


class Rules(Protocol):
    """What the walker asks.

    Each function raises `Unsound` or `Foreign` for what must not be.
    """

    def name(self, name: str) -> None:
        """Look at the name of a class or a function."""

    def call(self, function: Named, arguments: list[Any]) -> Made:
        """Return what a call makes."""

    def build(self, made: Made, state: Any) -> None:
        """Look at a state that is given to an object."""

    def fill(self, made: Made, kind: str) -> None:
        """Look at an object that is filled like a ``dict`` or a ``list``."""

    def stored(self, identity: Any) -> Made:
        """Return what is stored outside the pickle under an identity."""
