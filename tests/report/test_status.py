"""How far a surface is, and how fast it grows."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from lsengine.engine import Options, evaluate
from lsengine.report import status
from tests.support.runs import run_job


def test_the_rate_is_that_of_the_latest_run(make_job):
    """A pause of a day between two runs does not count as work."""
    job = make_job()
    assert evaluate([job], Options(progress="none"), world=None) == 0
    with h5py.File(job.with_suffix(".h5"), "r+") as file:
        cells = np.arange(28.0)
        file["finished"][...] = (cells / 4 + 86400 * (cells >= 20)).reshape(4, 7)
    assert status.summary(job.with_suffix(".h5")).rate_per_s == pytest.approx(4)


def test_status_of_a_job_with_automatic_axes_that_is_not_started(tmp_path):
    """The number of cells is known before the ranges are."""
    (found,) = status.summaries(run_job(tmp_path, "waiting"))
    assert (found.state, found.cells, found.shape) == ("not started", 20, [4, 5])


def test_times_that_are_not_known_do_not_count(make_job):
    """Neither as work nor as a pause; without two that are there is no rate."""
    job = make_job()
    path = job.with_suffix(".h5")
    assert evaluate([job], Options(progress="none"), world=None) == 0
    with h5py.File(path, "r+") as file:
        file["finished"][...] = np.nan
        file["finished"][0] = 1e9 + np.arange(7) / 4
    assert status.summary(path).rate_per_s == pytest.approx(4)
    with h5py.File(path, "r+") as file:
        file["finished"][...] = np.inf
    assert status.summary(path).rate_per_s is None
