"""Data that the tests of objectives share."""

from __future__ import annotations

from pathlib import Path

import pytest

from lsengine import data
from lsengine.job.schema import DataSpec


@pytest.fixture(scope="module")
def digits():
    """The bundled digits, 200 of each split."""
    spec = DataSpec(dataset="digits", subset=200)
    return data.load(spec, root=None, job_folder=Path(), seed=0)
