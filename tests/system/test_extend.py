"""A new surface takes over the cells of an old one."""

from __future__ import annotations

import numpy as np
import pytest

from lsengine import store
from lsengine.engine import Options, evaluate
from lsengine.errors import SurfaceError
from tests.support.jobs import values
from tests.support.launchers import run_alone
from tests.support.surfaces import edited

COARSE = {"alpha": [-1, 1, 5], "beta": [-1, 1, 3]}
FINE = {"alpha": [-1, 1, 9], "beta": [-2, 2, 9]}  # finer, and wider


def _evaluate(job, extend=None):
    return evaluate([job], Options(progress="none", extend=extend), world=None)


def _marked(job):
    """Evaluate a job and shift its losses, so that cells that come from it can be told."""
    assert _evaluate(job) == 0
    path = job.with_suffix(".h5")
    with edited(path) as file:
        file["train_loss"][...] += _marks(file["train_loss"].shape)
    return path


def _marks(shape):
    """Return 1000 for every cell, and 0 at the centre: a run refuses a surface with another one."""
    marks = np.full(shape, 1000.0)
    if all(count % 2 for count in shape):  # else no cell is the centre
        marks[tuple(count // 2 for count in shape)] = 0.0
    return marks


def test_a_finer_and_wider_grid_evaluates_only_what_is_new(make_job):
    """Coincident cells keep the old surface's values, the others get their own."""
    old = _marked(make_job("old", grid=COARSE))
    new, whole = make_job("new", grid=FINE), make_job("whole", grid=FINE)
    assert _evaluate(new, old) == 0
    assert _evaluate(whole) == 0
    found, expected = (
        store.read(job.with_suffix(".h5")).quantities["train_loss"] for job in (new, whole)
    )
    expected[2:7:2, ::2] += _marks((3, 5))
    np.testing.assert_array_equal(found, expected)


def test_without_marks_the_bytes_are_those_of_one_run(make_job, pool):
    """Extending, under MPI, changes no value."""
    old, whole = make_job("old", grid=COARSE), make_job("whole", grid=FINE)
    for job in (old, whole):
        assert pool.evaluate(job, 2)["code"] == 0
    new = make_job("new", grid=FINE)
    answer = pool.evaluate(new, 3, extend=str(old.with_suffix(".h5")))
    assert answer == {"code": 0, "message": ""}
    assert values(new.with_suffix(".h5")) == values(whole.with_suffix(".h5"))


@pytest.mark.parametrize("added", [["loss", "curvature"], ["loss", "accuracy", "curvature"]])
def test_one_more_quantity_is_all_that_is_evaluated(make_job, added):
    """Losses come from the old surface, eigenvalues are those of a whole run."""
    small = {"grid": {"alpha": [-1, 1, 3], "beta": [-1, 1, 2]}}
    old = _marked(make_job("old", quantities=[n for n in added if n != "curvature"], **small))
    new, whole = (make_job(name, quantities=added, **small) for name in ("new", "whole"))
    assert _evaluate(new, old) == 0
    assert _evaluate(whole) == 0
    found, expected = (store.read(j.with_suffix(".h5")).quantities for j in (new, whole))
    np.testing.assert_array_equal(found["train_loss"], expected["train_loss"] + 1000.0)
    for name in expected.keys() - {"train_loss"}:
        np.testing.assert_array_equal(found[name], expected[name])


def test_a_single_direction_becomes_the_first_of_several(make_job):
    """Repeats may be added: the first one is there already."""
    curve = {"directions": {"alpha": {"kind": "random"}}, "grid": {"alpha": [-1, 1, 5]}}
    old = _marked(make_job("old", **curve))
    new = make_job("new", repeats=3, **curve)
    assert _evaluate(new, old) == 0
    loss = store.read(new.with_suffix(".h5")).quantities["train_loss"]
    np.testing.assert_array_equal(loss[0] > 1000, _marks((5,)) > 0)
    assert (loss[1:] < 1000).all()


def test_failed_and_missing_cells_are_not_taken_over(make_job):
    """Only what the old surface has done counts."""
    old = _marked(make_job("old", grid=COARSE))
    with edited(old) as file:
        file["status"][0] = [0, 2, 1, 1, 1]
    new = make_job("new", grid=COARSE)
    assert _evaluate(new, old) == 0
    loss = store.read(new.with_suffix(".h5")).quantities["train_loss"]
    assert (loss[0, :2] < 1000).all()
    assert (loss[0, 2:] > 1000).all()


def test_an_old_surface_with_another_centre_is_refused(make_job):
    """The loss of the centre that is taken over differs from the one of today: exit 4."""
    old = make_job("old", grid=COARSE)
    assert _evaluate(old) == 0
    with edited(old.with_suffix(".h5")) as file:
        file["train_loss"][1, 2] += 1.0
    with pytest.raises(SurfaceError, match=r"centre's train_loss is .* now, and .* in the file"):
        _evaluate(make_job("new", grid=FINE), old.with_suffix(".h5"))


def test_cells_of_another_job_are_refused(make_job):
    """Another seed is named, exit 4, and no file is made."""
    directions = {"alpha": {"kind": "random", "seed": 1}, "beta": {"kind": "random", "seed": 9}}
    old = make_job("old", grid=COARSE, directions=directions)
    assert _evaluate(old) == 0
    new = make_job("new", grid=FINE)
    with pytest.raises(SurfaceError, match=r"directions\.beta\.seed is 2 in the job, 9 in the"):
        _evaluate(new, old.with_suffix(".h5"))
    assert not new.with_suffix(".h5").exists()
    missing = run_alone(["eval", str(new), "--extend", "nothing.h5"])
    assert missing.returncode == 2
    assert "nothing.h5: no such file" in missing.stderr
