"""How far a surface is, and how fast it grows."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from lsengine import store
from lsengine.engine import Options, evaluate
from lsengine.report import status
from tests.support.runs import run_job
from tests.support.surfaces import edited


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


def test_status_says_what_moves_how_far_and_what_stays(make_job, capsys):
    """As the start of a run says it, in words and in numbers; lengths are those of the file."""
    ways = {"alpha": {"kind": "random"}, "beta": {"kind": "random", "ignore": ["0.*"]}}
    job = make_job(directions=ways)
    path = job.with_suffix(".h5")
    assert evaluate([job], Options(progress="none"), world=None) == 0
    started = capsys.readouterr().err
    found = status.summary(path)
    words = str(found)
    for axis, direction in store.read_directions(path).items():
        counts = found.as_dict()["parameters"][axis]["moves"]
        assert counts["parameters"] == len(direction)
        assert counts["numbers"] == sum(values.size for values in direction.values())
        assert counts["filters"] == sum(len(v) if v.ndim > 1 else 1 for v in direction.values())
        square = sum(float((v.astype(float) ** 2).sum()) for v in direction.values())
        lengths = found.as_dict()["lengths"][axis].values()
        assert np.hypot.reduce(list(lengths)) == pytest.approx(square**0.5, rel=1e-5)
        assert found.lengths[axis] == store.read(path).direction_sizes[axis].lengths
        lines = words[words.index(f"  {axis}  ") :].splitlines()[:4]
        said = "; ".join(line.strip() for line in lines).split(maxsplit=1)[1]
        assert f"{axis}: {said}" in started
    assert list(found.lengths["alpha"]) == ["weights"]
    assert list(found.lengths["beta"]) == ["weights", "biases", "norm"]
    assert "norm 1 (1.weight)" in words
    assert words.count("running statistics: frozen 2") == 2


def test_an_older_file_says_what_moves_without_lengths(make_job, capsys):
    """It does not know them; a run that goes on with it says the same."""
    job = make_job()
    path = job.with_suffix(".h5")
    assert evaluate([job], Options(progress="none"), world=None) == 0
    with edited(path) as file:
        del file.attrs["direction_sizes"]
        file["status"][0] = 0
    found = status.summary(path)
    assert (found.lengths, found.zero_filters) == (None, None)
    assert "parameters move (" in str(found)
    assert "length" not in str(found)
    capsys.readouterr()
    assert evaluate([job], Options(progress="none"), world=None) == 0
    assert "parameters move (" in capsys.readouterr().err
