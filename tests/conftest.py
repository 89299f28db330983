"""Fixtures: small jobs, and a warm pool of ranks."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# Tests run beside each other; threads that wait for each other would only burn the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shell that starts the tests in the background has them, and all they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, str(Path(__file__).parent))

if TYPE_CHECKING:
    from launchers import Pool


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    """A warm pool of five ranks."""
    from launchers import Pool

    pool = Pool()
    yield pool
    pool.close()


@pytest.fixture
def make_job(tmp_path: Path) -> Callable[..., Path]:
    """Write small complete jobs in the test's folder; see `tests/jobs.py`."""
    from jobs import write_job

    return lambda name="job", **changes: write_job(tmp_path, name, **changes)
