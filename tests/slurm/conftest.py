"""A SLURM for the tests that need one, or the reason why there is none; undisturbed values."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lsengine.engine import Options, evaluate
from tests.support.jobs import values, write_job
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


@pytest.fixture
def expected(tmp_path_factory):
    """Return the values of a job's surface from an undisturbed run in one process."""

    def undisturbed(**changes):
        job = write_job(tmp_path_factory.mktemp("undisturbed"), **changes)
        assert evaluate([job], Options(progress="none"), world=None) == 0
        return values(job.with_suffix(".h5"))

    return undisturbed
