"""Surfaces whose files do not hold their directions, against those that do."""

from __future__ import annotations

import numpy as np
import pytest

from lsengine import store
from lsengine.cli import main
from lsengine.engine import Options, evaluate
from lsengine.errors import SurfaceError, UsageError
from lsengine.store.shards import merge
from lsengine.surface import drawn
from tests.support.jobs import values
from tests.support.surfaces import edited

QUIET = Options(progress="none")
PLANE = {"alpha": {"kind": "random", "seed": 1}, "beta": {"kind": "random", "seed": 2}}


def _run(job, options=QUIET):
    assert evaluate([job], options, world=None) == 0
    return job.with_suffix(".h5")


def _cells(path):
    return {n: v for n, v in values(path).items() if not n.startswith("directions/")}


@pytest.mark.parametrize(
    "changes",
    [
        {"directions": PLANE},
        {
            "directions": {
                "alpha": {"kind": "random", "normalize": "layer", "ignore": []},
                "beta": {"kind": "random", "normalize": "layer", "orthogonal": True},
            }
        },
        {"directions": {"alpha": PLANE["alpha"]}, "grid": {"alpha": [0, 1, 3]}, "repeats": 2},
        {"directions": PLANE, "precision": "float64"},
    ],
    ids=["plane", "orthogonal", "repeats", "float64"],
)
def test_cells_are_those_of_a_file_that_holds_its_directions(make_job, changes):
    """The same bytes, and digests of the very numbers that the other file holds."""
    held = _run(make_job("held", **changes))
    directions = {**changes["directions"], "stored": False}
    path = _run(make_job("again", **{**changes, "directions": directions}))
    assert _cells(path) == _cells(held)
    assert store.read_directions(path) == {}
    expected = drawn.digests(store.read_directions(held), repeats="repeats" in changes)
    assert store.read_drawn(path) == expected
    assert store.read_drawn(held) == {}
    assert store.read_parts(path) == store.read_parts(held)
    assert path.stat().st_size < held.stat().st_size + 2000
    for name in ("fingerprint", "cell_fingerprint"):
        assert store.read_attributes(path)[name] == store.read_attributes(held)[name]


def _unfinish(path, cells=5):
    with edited(path) as file:
        file["status"][:, :cells] = 0
        file["train_loss"][:, :cells] = np.nan


def _redraw(path):
    """Let a file say that other numbers were drawn."""
    with edited(path) as file:
        text = bytes(file["directions/drawn"][()])
        other = text.replace(text.split(b'["')[1][:64], b"0" * 64)
        del file["directions/drawn"]
        file["directions/drawn"] = np.bytes_(other)


def test_a_run_goes_on_with_what_is_drawn_again(make_job):
    """Resumed after `stored` was changed in the job, too; another drawing is refused by name."""
    job = make_job(directions={**PLANE, "stored": False})
    path = _run(job)
    expected = values(path)
    for stored in (False, True):
        _unfinish(path)
        _run(make_job(directions={**PLANE, "stored": stored}))
        assert values(path) == expected
    _unfinish(path)
    _redraw(path)
    with pytest.raises(SurfaceError, match=r"direction alpha is not drawn again .*: 0\.weight"):
        evaluate([job], QUIET, world=None)


def test_extending_compares_what_was_drawn(make_job, tmp_path):
    """Either file may hold its directions; another drawing is refused."""
    old = tmp_path / "old.h5"
    _run(make_job(directions={**PLANE, "stored": False})).rename(old)
    grid = {"alpha": [-1, 1, 13], "beta": [-0.5, 1, 4]}
    for stored in (False, True):
        finer = make_job("finer", directions={**PLANE, "stored": stored}, grid=grid)
        path = _run(finer, Options(progress="none", extend=old))
        assert _cells(path) == _cells(_run(make_job("whole", directions=PLANE, grid=grid)))
        path.unlink()
    _redraw(old)
    with pytest.raises(SurfaceError, match=r"its direction alpha is not .*: 0\.weight has other"):
        evaluate([finer], Options(progress="none", extend=old), world=None)


def test_shards_are_merged_by_digests(make_job):
    """One shard may hold the directions and another not; those drawn otherwise are refused."""
    job = make_job(directions=PLANE)
    expected = _cells(_run(job))
    job.with_suffix(".h5").unlink()
    for part, stored in ((1, True), (2, False)):
        job = make_job(directions={**PLANE, "stored": stored})
        assert evaluate([job], Options(progress="none", shard=(part, 2)), world=None) == 0
    shards = [job.with_suffix(f".shard-{part}.h5") for part in (1, 2)]
    assert merge(shards, job.with_suffix(".h5")).code == 0
    assert _cells(job.with_suffix(".h5")) == expected
    _redraw(shards[1])
    with pytest.raises(SurfaceError, match=r"the direction alpha differs in 0\.weight"):
        merge(shards, job.with_name("other.h5"))


def test_who_needs_directions_is_told_that_there_are_none(make_job, tmp_path, capsys):
    """An export, a job that wants to move along them, and kinds that cannot be drawn."""
    path = _run(make_job(directions={**PLANE, "stored": False}))
    assert main(["export", str(path), "--to", "loss-landscape", "-o", str(tmp_path / "x.h5")]) == 0
    assert "directions.stored: false" in capsys.readouterr().err
    assert not (tmp_path / "x_directions.h5").exists()
    along = {"alpha": {"kind": "file", "path": path.name}}
    job = make_job("along", directions=along, grid={"alpha": [0, 1, 2]})
    with pytest.raises(UsageError, match=r"does not hold its random directions.*kind random"):
        evaluate([job], QUIET, world=None)
    mixed = {**PLANE, "beta": {"kind": "file", "path": "x.h5"}, "stored": False}
    with pytest.raises(UsageError, match=r"directions\.stored: false, but beta is of kind file"):
        evaluate([make_job("mixed", directions=mixed)], QUIET, world=None)
