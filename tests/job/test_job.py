"""What of a job decides its surface, and what a surface says of its job."""

from __future__ import annotations

import json

import pytest

from lsengine import job as jobs
from lsengine.surface.identity import cell_identity, fingerprint, first_difference


def _fingerprint(job):
    return fingerprint(job.identity({"checkpoint": "a", "data": "b"}))


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"output": "elsewhere.h5"},
        {"device": "cpu"},
        {"threads": 3},
        {"writing": "gather"},
        {"train": {"output": "out", "epochs": 7}},
        {"launch": {"nodes": 4}},
        {"data": {"dataset": "digits", "root": "/elsewhere"}},
    ],
)
def test_what_does_not_affect_values_does_not_change_the_fingerprint(load, changes):
    """Names, places and cluster settings may be edited without losing a surface."""
    assert _fingerprint(load(**changes)) == _fingerprint(load())


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 4},
        {"loss": "mse"},
        {"precision": "float64"},
        {"batch_size": 16},
        {"batch_norm": "recalibrated"},
        {"quantities": ["loss"]},
        {"grid": {"alpha": [-1, 1, 5], "beta": [-1, 1, 5]}},
        {"data": {"dataset": "digits", "subset": 100}},
        {"data": {"dataset": "image_folder", "root": ".", "resize": [8, 9]}},
        {"model": {"arch": "resnet20", "checkpoint": "centre.pt", "args": {"classes": 10}}},
        {"directions": {"alpha": {"kind": "random", "seed": 2}, "beta": {"kind": "random"}}},
    ],
)
def test_what_affects_values_changes_the_fingerprint(load, changes):
    """Each of these is another surface, and the first difference can be named."""
    ours, theirs = load(**changes).identity({}), load().identity({})
    assert fingerprint(ours) != fingerprint(theirs)
    assert first_difference(ours, theirs) is not None


def test_the_fingerprint_of_a_job_never_changes(load):
    """Archived surfaces must stay resumable: this value is part of the format."""
    text = json.dumps(load().identity({"checkpoint": "a", "data": "b"}), sort_keys=True)
    assert json.loads(text)["digests"] == {"checkpoint": "a", "data": "b"}
    assert "centre.pt" not in text
    assert _fingerprint(load()) == _fingerprint(load())


def test_the_precision_of_products_belongs_to_the_fingerprint_where_it_is_given(load):
    """A job without it has the identity that it had before there was the key."""
    assert "precision" not in load(curvature={"basis": 20}).identity({})["curvature"]
    given = [load(curvature={"basis": 20, "precision": p}) for p in ("float32", "tf32")]
    assert given[1].identity({})["curvature"]["precision"] == "tf32"
    assert _fingerprint(given[0]) == _fingerprint(load(curvature={"basis": 20}))
    assert _fingerprint(given[0]) != _fingerprint(given[1])


def test_the_size_of_images_belongs_to_the_fingerprint_where_it_is_given(load):
    """A job without it has the identity that it had before there was the key."""
    folder = {"dataset": "image_folder", "root": "."}
    sizes = [None, [8, 9], [9, 8]]
    given = [load(data=folder | ({"resize": size} if size else {})) for size in sizes]
    assert "resize" not in given[0].identity({})["data"]
    assert given[1].identity({})["data"]["resize"] == [8, 9]
    assert len({_fingerprint(job) for job in given}) == 3


def test_the_cell_fingerprint_ignores_grid_repeats_and_quantities(load):
    """Refining a grid keeps the cells; another seed does not."""
    finer = load(grid={"alpha": [-1, 1, 9], "beta": [-1, 1, 9]}, quantities=["loss"])
    assert cell_identity(finer.identity({})) == cell_identity(load().identity({}))
    other = load(seed=4)
    assert cell_identity(other.identity({})) != cell_identity(load().identity({}))


def test_the_resolved_job_is_a_job_again(load, tmp_path):
    """The text stored in a surface holds all defaults and loads to the same document."""
    job = load(name="some")
    again = tmp_path / "again.yaml"
    again.write_text(job.resolved())
    assert _fingerprint(jobs.load(again)) == _fingerprint(job)
    assert jobs.load(again).output == job.output
