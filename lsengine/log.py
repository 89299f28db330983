"""Log lines: rank first, then host, then what happened with its values named."""

from __future__ import annotations

import logging
import socket
import sys

NOTICE = 25


"""The level of what a user wants to know of every rank, not only of rank 0."""


def configure(rank: int) -> None:
    """Send log lines to standard error.  Rank 0 speaks; others on notices or worse."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(f"r{rank:03d} {socket.gethostname()}"))
    root = logging.getLogger("lsengine")
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO if rank == 0 else NOTICE)
    root.propagate = False


class _Formatter(logging.Formatter):
    def __init__(self, head: str) -> None:
        super().__init__()
        self._head = head

    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno in (logging.INFO, NOTICE) else f" {record.levelname}"
        return f"{self._head}{level} {record.getMessage()}"
