"""Version 1 of the surface file, whose directions lie in groups of other names, stays usable."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from lsengine import store
from lsengine.engine import Options, evaluate
from lsengine.errors import SurfaceError
from lsengine.export import export
from lsengine.store.shards import merge
from tests.archive.version_1 import to_version_1, version_of
from tests.support.jobs import values, write_job

GRID = {"alpha": [-1, 1, 5], "beta": [-0.5, 1, 3]}
ARCHIVED = Path(__file__).parent / "version-1"


def _evaluate(job: Path, **options):
    assert evaluate([job], Options(progress="none", **options), world=None) == 0
    return job.with_suffix(".h5")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a job, its finished surface and its two shards."""
    folder = tmp_path_factory.mktemp("finished")
    job = write_job(folder, grid=GRID)
    _evaluate(job)
    for part in (1, 2):
        _evaluate(job, shard=(part, 2))
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of it, whose files a test may change."""
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def _renamed(found):
    """Return the datasets of a version 1 file under the names of today."""
    return {
        n.replace("directions/", "directions/along_", 1) if n.count("/") == 2 else n: v
        for n, v in found.items()
    }


def _without_checksums(found):
    return {name: content for name, content in found.items() if name != "checksum"}


def _without_paths(found):
    return {name: content for name, content in found.items() if name != "dir_file"}


def test_the_groups_are_what_tells_the_versions_apart(folder):
    """A new file is of version 3; both are read alike."""
    new = folder / "job.h5"
    assert version_of(new) == 3
    with h5py.File(new) as file:
        assert {"along_alpha", "along_beta"} < file["directions"].keys()
    old = to_version_1(Path(shutil.copy(new, folder / "old.h5")))
    expected, found = store.read_directions(new), store.read_directions(old)
    assert found.keys() == expected.keys() == {"alpha", "beta"}
    for axis, parameters in expected.items():
        assert found[axis].keys() == parameters.keys()
        for name, array in parameters.items():
            np.testing.assert_array_equal(found[axis][name], array)


def test_eval_goes_on_in_a_file_of_version_1(folder):
    """The file stays of version 1 and gets the values of an undisturbed run."""
    expected = values(folder / "job.h5")
    (folder / "job.h5").unlink()
    part = to_version_1((folder / "job.shard-1.h5").rename(folder / "job.h5"))
    assert 0 < store.read(part).counts()["done"] < 15
    _evaluate(folder / "job.yaml")
    assert version_of(part) == 1
    assert _renamed(values(part)) == _without_checksums(expected)


def test_a_surface_of_version_1_is_extended(folder):
    """Its cells are taken over into a new file, which is of version 3."""
    old = to_version_1(folder / "job.h5")
    with h5py.File(old, "r+") as file:
        file["train_loss"][...] += 1000.0  # so that they can be told
    wider = write_job(folder, "wider", grid={**GRID, "alpha": [-2, 2, 9]})
    new = _evaluate(wider, extend=old)
    assert version_of(new) == 3
    loss = store.read(new).quantities["train_loss"]
    assert (loss[:, 2:7] > 1000).all()
    assert (loss[:, [0, 1, 7, 8]] < 1000).all()


@pytest.mark.parametrize("old", [(1,), (2,), (1, 2)])
def test_shards_of_both_versions_are_merged(folder, old):
    """The first shard's version is that of the whole; the values are the undisturbed ones."""
    expected = values(folder / "job.h5")
    (folder / "job.h5").unlink()
    shards = [folder / f"job.shard-{part}.h5" for part in (1, 2)]
    for part in old:
        to_version_1(shards[part - 1])
    assert merge(shards, folder / "job.h5").code == 0
    assert version_of(folder / "job.h5") == (1 if 1 in old else 3)
    found = values(folder / "job.h5")
    assert found == expected if 1 not in old else _renamed(found) == _without_checksums(expected)


def test_other_directions_of_version_1_are_refused(folder):
    """The numbers are compared under their names of today."""
    with h5py.File(to_version_1(folder / "job.shard-1.h5"), "r+") as file:
        file["directions/beta/0.weight"][0] += 0.125
    shards = [folder / f"job.shard-{part}.h5" for part in (1, 2)]
    with pytest.raises(SurfaceError, match=r"the direction beta differs in 0\.weight"):
        merge(shards, folder / "whole.h5")


def test_version_1_is_exported(folder):
    """loss-landscape's files, which hold directions, are the same bytes from both versions."""
    written = {}
    for version in (3, 1):
        to = folder / f"v{version}"
        to.mkdir()
        files = export(folder / "job.h5", "loss-landscape", to / "old.h5")
        written[version] = [_without_paths(values(f)) for f in files]
        to_version_1(folder / "job.h5")
    assert len(written[1]) == 2
    assert written[1] == written[3]


def test_directions_come_from_files_of_version_1(folder):
    """Directions of kind file are those of the surface that they come from."""
    spec = {a: {"kind": "file", "path": "job.h5", "which": a} for a in ("alpha", "beta")}
    again = write_job(folder, "again", grid=GRID, directions=spec)
    to_version_1(folder / "job.h5")
    found = store.read(_evaluate(again)).quantities["train_loss"]
    expected = store.read(folder / "job.h5").quantities["train_loss"]
    np.testing.assert_array_equal(found, expected)


@pytest.fixture
def archived(tmp_path):
    """A copy of what lsengine made before version 2: a job, its files, and half of its surface."""
    return Path(shutil.copytree(ARCHIVED, tmp_path / "archived"))


def test_an_archived_surface_goes_on(archived):
    """Its finished cells stay, the others agree with a whole run of today."""
    path = archived / "job.h5"
    half, before = store.read(path), values(path)
    assert (version_of(path), half.counts()["done"]) == (1, 8)
    _evaluate(archived / "job.yaml")
    assert version_of(path) == 1
    found = store.read(path)
    assert found.counts()["missing"] == 0
    for name, stored in half.quantities.items():
        np.testing.assert_array_equal(found.quantities[name][half.done], stored[half.done])
    assert values(path).keys() == before.keys()
    path.unlink()
    whole = store.read(_evaluate(archived / "job.yaml"))
    assert version_of(path) == 3
    for name, expected in whole.quantities.items():
        np.testing.assert_allclose(found.quantities[name], expected, rtol=1e-5)


def test_an_archived_surface_is_extended_merged_and_exported(archived):
    """What today's commands do with files of today, they do with it."""
    half = store.read(archived / "job.h5")
    old = (archived / "job.h5").rename(archived / "old.h5")
    extended = store.read(_evaluate(archived / "job.yaml", extend=old))
    for name, stored in half.quantities.items():
        np.testing.assert_array_equal(extended.quantities[name][half.done], stored[half.done])
    other = _evaluate(archived / "job.yaml", shard=(2, 2)).with_name("job.shard-2.h5")
    assert merge([old, other], archived / "whole.h5").code == 0
    assert store.read(archived / "whole.h5").counts()["missing"] == 0
    for form, name in (("csv", "a.csv"), ("npz", "a.npz"), ("loss-landscape", "a.h5")):
        assert export(old, form, archived / name)
