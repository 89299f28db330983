"""Functions that are called by a process in which nobody has set up lsengine's log lines."""

from __future__ import annotations

import logging

import pytest


@pytest.fixture(autouse=True)
def _no_log_lines():
    """Other tests are the command line, which sets them up for good."""
    root = logging.getLogger("lsengine")
    before = root.handlers[:], root.level, root.propagate
    root.handlers[:], root.propagate = [], True
    root.setLevel(logging.NOTSET)
    yield
    root.handlers[:], root.propagate = before[0], before[2]
    root.setLevel(before[1])
