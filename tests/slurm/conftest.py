"""A SLURM for the tests that need one, or the reason why there is none."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.testbed import Testbed, unfit


@pytest.fixture(scope="session")
def cluster() -> Iterator[Testbed]:
    """Three virtual nodes of four cores and two null GPUs."""
    if reason := unfit():
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="lsslurm-", dir="/tmp"))  # sockets have short names
    bed = Testbed(folder)
    try:
        bed.start()
        yield bed
    finally:
        bed.stop()
        shutil.rmtree(folder, ignore_errors=True)
