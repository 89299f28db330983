"""Shards of a surface, and the surface that is made of them."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from lsengine import store
from lsengine.cli import main
from lsengine.engine import Options, evaluate
from lsengine.errors import EnvironmentUnfit, SurfaceError, UsageError
from lsengine.store.shards import merge
from tests.support.jobs import values
from tests.support.runs import run_job

QUIET = Options(progress="none")


def _shards(job, count, parts=None):
    for part in parts or range(1, count + 1):
        assert evaluate([job], Options(progress="none", shard=(part, count)), world=None) == 0
    paths = [job.with_suffix(f".shard-{part}.h5") for part in range(1, count + 1)]
    return paths if parts else [path for path in paths if path.exists()]  # some have no cell


def _whole(job):
    """Evaluate the same job undisturbed into a file of its own, and return its values."""
    assert evaluate([job], QUIET, world=None) == 0
    found = values(job.with_suffix(".h5"))
    job.with_suffix(".h5").unlink()
    return found


@pytest.mark.parametrize("count", [1, 3, 40])
def test_merged_shards_are_the_undisturbed_surface(make_job, count):
    """One, a few or more shards than cells give the same bytes, each cell evaluated once."""
    job = make_job()
    expected = _whole(job)
    shards = _shards(job, count)
    done = [store.read(path).done.ravel() for path in shards]
    assert np.sum(done, axis=0).tolist() == [1] * 28
    assert max(map(np.sum, done)) - min(map(np.sum, done)) <= 1
    assert merge(shards, job.with_suffix(".h5")).code == 0
    assert values(job.with_suffix(".h5")) == expected
    assert evaluate([job], QUIET, world=None) == 0  # has nothing to do, and no objection


def test_shards_of_a_trajectory_share_its_checkpoints(tmp_path):
    """Checkpoints are cells of the shards, too, and merged like them."""
    job = run_job(tmp_path)
    expected = _whole(job)
    shards = _shards(job, 2)
    assert 0 < store.read_trajectory(shards[0]).counts()["done"] < 9
    assert merge(shards, job.with_suffix(".h5")).code == 0
    assert values(job.with_suffix(".h5")) == expected


def test_shards_of_curvature_keep_blocks_together(make_job):
    """Cells that share products are in one shard; the eigenvalues are the same bytes."""
    job = make_job(
        quantities=["loss", "curvature"],
        directions={"alpha": {"kind": "random"}},
        grid={"alpha": [-1, 1, 9]},
    )
    expected = _whole(job)
    shards = _shards(job, 2)
    assert len(shards) == 2
    assert merge(shards, job.with_suffix(".h5")).code == 0
    assert values(job.with_suffix(".h5")) == expected


def test_partial_shards_merge_and_the_rest_is_named(make_job, capsys):
    """With a shard missing the surface is made, code 75 says it is not whole; eval completes it."""
    job = make_job()
    expected = _whole(job)
    shards = _shards(job, 3, parts=[1, 3])
    output = job.with_suffix(".h5")
    code = main(["merge", str(shards[0]), str(shards[2]), "--output", str(output)])
    assert code == 75
    assert "19 of 28 cells done" in (text := capsys.readouterr().out)
    assert "9 missing" in text
    assert evaluate([job], QUIET, world=None) == 0
    assert values(output) == expected


def test_a_surface_that_is_there_is_one_more_shard(make_job):
    """Merging twice, a shard at a time, loses nothing that the output had."""
    job = make_job()
    expected = _whole(job)
    shards, output = _shards(job, 2), job.with_suffix(".h5")
    assert merge(shards[:1], output).code == 75
    assert merge(shards[1:], output).code == 0
    assert values(output) == expected


def test_shards_of_other_jobs_are_refused_by_name(make_job):
    """Another grid or seed: exit code 4, the odd file and the first difference are named."""
    job = make_job()
    other = make_job("other", seed=3)
    odd = _shards(other, 2)[1]
    with pytest.raises(SurfaceError, match=r"other\.shard-2\.h5: belongs to another job.*seed is"):
        merge([*_shards(job, 2), odd], job.with_suffix(".h5"))
    assert not job.with_suffix(".h5").exists()


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("directions/along_beta/0.weight", r"the direction beta differs in 0\.weight"),
        ("beta", "the coordinates of beta differ"),
    ],
)
def test_other_directions_or_coordinates_are_refused(make_job, what, reason):
    """The same job's fingerprint does not excuse other numbers."""
    job = make_job()
    shards = _shards(job, 2)
    with h5py.File(shards[1], "r+") as file:
        file[what][0] += 0.125
    with pytest.raises(SurfaceError, match=rf"shard-2.*{reason}"):
        merge(shards, job.with_suffix(".h5"))


def test_overlaps_must_agree(make_job):
    """Cells that two files have are compared bit by bit; a wrong one leaves the output alone."""
    job = make_job()
    shards = _shards(job, 2)
    whole = job.with_suffix(".h5")
    assert merge(shards, whole).code == 0
    before = whole.read_bytes()
    assert merge(shards, whole).code == 0
    cell = int(np.flatnonzero(store.read(shards[0]).done)[3])
    with h5py.File(shards[0], "r+") as file:
        loss = file["test_loss"][...]
        loss.ravel()[cell] = np.nextafter(loss.ravel()[cell], 9.0)
        file["test_loss"][...] = loss
    with pytest.raises(SurfaceError, match=f"test_loss of cell {cell} "):
        merge(shards, whole)
    assert whole.read_bytes() == before


def test_failed_cells_are_merged_until_one_is_done(make_job, tmp_path):
    """A failure is kept with its reason, code 5; a shard that has the cell done wins."""
    repaired = tmp_path / "repaired"
    model = {
        "arch": "testnets:Fragile",
        "args": {"repaired": str(repaired)},
        "checkpoint": "centre.pt",
    }
    job = make_job(model=model)
    for part in (1, 2):
        assert main(["eval", str(job), "--shard", f"{part}/2", "--progress", "none"]) == 5
    shards = [job.with_suffix(f".shard-{part}.h5") for part in (1, 2)]
    merged = merge(shards, job.with_suffix(".h5"))
    assert merged.code == 5
    assert "--retry-failed" in merged.text
    repaired.touch()
    for part in (1, 2):
        options = Options(progress="none", shard=(part, 2), retry_failed=True)
        assert evaluate([job], options, world=None) == 0
    assert merge(shards, job.with_suffix(".h5")).code == 0


def test_a_shard_under_ranks_is_the_same(make_job, pool):
    """Ranks may share a shard; it has its part of the cells and no others."""
    job = make_job()
    _shards(job, 2, parts=[1])
    path = job.with_suffix(".shard-1.h5")
    expected = values(path)
    path.unlink()
    assert pool.evaluate(job, 3, shard=[1, 2])["code"] == 0
    assert values(path) == expected


@pytest.mark.parametrize("text", ["0/4", "5/4", "2", "a/b", "1/0"])
def test_a_shard_that_makes_no_sense_is_refused(text, capsys):
    """K from 1 to N."""
    with pytest.raises(SystemExit) as ended:
        main(["eval", "job.yaml", "--shard", text])
    assert ended.value.code == 2
    assert "expected K/N" in capsys.readouterr().err


def test_nothing_to_merge(make_job):
    """A file that is not there, and the output alone, are usage errors."""
    job = make_job()
    with pytest.raises(UsageError, match="no such file"):
        merge([job.with_suffix(".shard-1.h5")], job.with_suffix(".h5"))
    assert evaluate([job], QUIET, world=None) == 0
    with pytest.raises(UsageError, match="nothing to merge"):
        merge([job.with_suffix(".h5")], job.with_suffix(".h5"))
    with pytest.raises(UsageError, match="is a directory"):
        merge([job.with_suffix(".h5")], job.parent)
    with pytest.raises(EnvironmentUnfit, match="cannot be made"):
        merge([job.with_suffix(".h5")], job / "folder" / "whole.h5")
