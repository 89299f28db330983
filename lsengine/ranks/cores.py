"""The processor cores of this process."""

from __future__ import annotations

import os


def available_cores() -> frozenset[int]:
    """Return the processor cores this process may use, by number."""
    try:
        return frozenset(os.sched_getaffinity(0))
    except AttributeError:  # not every system has affinities
        return frozenset(range(os.cpu_count() or 1))
