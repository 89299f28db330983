"""Worlds without MPI: what arrives is written down before, what is sent is kept."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lsengine.ranks import Message, World


class ScriptedWorld(World):
    """One of several ranks, who hears some messages and then nothing.

    Attributes:
        sent: Payload, receiver and tag of what it has sent, in order.
        died: The ranks that have died.
    """

    def __init__(self, *, rank: int, size: int, messages: Iterable[Message] = ()) -> None:
        super().__init__(None, None, "none")
        self.rank, self.size = rank, size
        self.sent: list[tuple[Any, int, int]] = []
        self.died: set[int] = set()
        self.put_back(messages)

    def send(self, payload: Any, *, to: int, tag: int) -> None:
        """Keep what is sent."""
        self.sent.append((payload, to, tag))

    def lost(self) -> frozenset[int]:
        """Return the ranks that have died or do not answer."""
        return super().lost() | self.died

    def forget(self) -> None:
        """Keep what is to arrive: it comes later."""
