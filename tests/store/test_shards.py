"""Shards of a surface, and the surface that is made of them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from lsengine import store
from lsengine.cli import main
from lsengine.engine import Options, evaluate
from lsengine.errors import EnvironmentUnfit, SurfaceError, UsageError
from lsengine.store.shards import merge
from tests.support.jobs import values
from tests.support.runs import run_job
from tests.support.surfaces import edited

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
    with edited(shards[1]) as file:
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
    with edited(shards[0]) as file:
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


IDENTITY = {"seed": 0}


@pytest.fixture
def two_shards(layout, results, tmp_path):
    """Return a function that makes two files with all cells, the second one changed."""

    def make(factor=1.0, quantity="train_loss", **attributes):
        common = {"fingerprint": "f", "identity": json.dumps(IDENTITY), "precision": "float32"}
        paths = [tmp_path / "one.h5", tmp_path / "other.h5"]
        for path, own in zip(paths, ({}, attributes), strict=True):
            about = {**common, "device_kind": "cpu AVX2", "threads": 4, **own}
            store.create(path, replace(layout, attributes=about))
            writer = store.Writer(path)
            writer.write(results(range(12)))
            writer.close()
        with edited(paths[1]) as file:
            file[quantity][...] *= factor
        return paths

    return make


def test_cells_of_other_processors_agree_to_the_tolerance(two_shards, tmp_path, caplog):
    """Another instruction set changes last bits: no error, but it is said; the first file's win."""
    paths = two_shards(factor=1 + 1e-8, device_kind="cpu AVX512")
    assert merge(paths, tmp_path / "whole.h5").code == 0
    assert "device_kind" in caplog.text
    assert "may differ by 0.0001 of their value" in caplog.text
    found, first = (store.read(path).quantities for path in (tmp_path / "whole.h5", paths[0]))
    np.testing.assert_array_equal(found["train_loss"], first["train_loss"])


def test_an_accuracy_may_jump_by_a_sample_between_processors(two_shards, tmp_path):
    """It is no continuous function, and so is not compared where last bits differ."""
    paths = two_shards(factor=1.02, quantity="train_accuracy", device_kind="cpu AVX512")
    assert merge(paths, tmp_path / "whole.h5").code == 0


@pytest.mark.parametrize(
    ("factor", "attributes"),
    [(1.001, {"device_kind": "cpu AVX512"}), (1 + 1e-8, {}), (1 + 1e-8, {"mpi_library": "other"})],
)
def test_cells_that_differ_otherwise_are_refused(two_shards, tmp_path, factor, attributes):
    """By more than a processor explains, or by anything between files that were made alike."""
    paths = two_shards(factor=factor, **attributes)
    said = r"other\.h5: train_loss of cell 0 is [\d.]+, but [\d.]+ in .*12 cells differ"
    with pytest.raises(SurfaceError, match=said):
        merge(paths, tmp_path / "whole.h5")
    assert not (tmp_path / "whole.h5").exists()


def test_another_job_is_told_by_the_first_key_that_differs(two_shards, tmp_path):
    """Its two values are named with their files."""
    paths = two_shards(fingerprint="g", identity=json.dumps({"seed": "in the job"}))
    with pytest.raises(SurfaceError, match='seed is "in the job" here, 0 there'):
        merge(paths, tmp_path / "whole.h5")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda f: f.__delitem__("train_loss"), "train_loss is not there"),
        (lambda f: f.attrs.__setitem__("device_kind", np.array([1, 2])), "attribute device_kind"),
        (lambda f: f.attrs.__delitem__("precision"), "precision is None"),
        (lambda f: f.attrs.__setitem__("precision", "x"), "attribute precision is"),
        (lambda f: (f.__delitem__("wall_s"), f.__setitem__("wall_s", 3.0)), "wall_s is float64"),
    ],
)
def test_a_damaged_shard_is_refused_and_nothing_written(make_job, tmp_path, change, says):
    """Cells without one of their results are not done, whatever the file says."""
    job = make_job()
    shards = _shards(job, 2)
    with edited(shards[1]) as file:
        change(file)
    with pytest.raises(SurfaceError, match=says) as refusal:
        merge(shards, tmp_path / "m.h5")
    assert str(shards[1]) in str(refusal.value)
    assert not (tmp_path / "m.h5").exists()
