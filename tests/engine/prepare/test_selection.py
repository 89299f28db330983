"""Which parameters move, are on a curve or count in a Hessian."""

from __future__ import annotations

import numpy as np
import pytest

from lsengine import job as jobs
from lsengine import store
from lsengine.cli import main
from lsengine.engine import Options, evaluate, prepare
from lsengine.engine.prepare import selection
from lsengine.errors import UsageError
from tests.support.jobs import write_job

LINE = {"grid": {"alpha": [0, 1, 2]}}
FROZEN = """
import testnets
def mlp():
    model = testnets.mlp()
    model[0].requires_grad_(False)
    return model
"""


def _line(**direction):
    return {"directions": {"alpha": {"kind": "random", "seed": 4, **direction}}, **LINE}


def test_a_pattern_that_ignores_nothing_is_refused(make_job):
    """A typing mistake in `ignore` would let move what is to stay."""
    directions = {"alpha": {"kind": "random", "ignore": ["layer9.*", "bias"]}}
    job = make_job(directions=directions, grid={"alpha": [0, 1, 2]})
    match = r"directions.alpha.ignore: layer9.\* fits no parameter; there are: 0.weight"
    with pytest.raises(UsageError, match=match):
        evaluate([job], Options(progress="none"), world=None)


@pytest.mark.parametrize(
    ("only", "ignore", "moves"),
    [
        (["3.*"], [], ["3.weight", "3.bias"]),
        (["3.*", "0.weight"], ["bias"], ["0.weight", "3.weight"]),
        (["norm"], [], ["1.weight", "1.bias"]),
        (["frozen"], [], ["0.weight", "0.bias"]),
        (["?.weight"], ["frozen", "norm"], ["3.weight"]),
    ],
    ids=str,
)
def test_what_moves_is_drawn_as_if_all_moved(tmp_path, only, ignore, moves):
    """The numbers of a parameter do not depend on which others move."""
    (tmp_path / "half.py").write_text(FROZEN)
    drawn = {}
    for name, words in (("some", {"only": only, "ignore": ignore}), ("all", {"ignore": []})):
        model = {"arch": "half:mlp", "checkpoint": "centre.pt"}
        job = jobs.load(write_job(tmp_path, name, model=model, **_line(**words)), command="eval")
        drawn[name] = prepare.make_directions(job, prepare.load(job).model)["alpha"]
    assert list(drawn["some"]) == moves
    for name, numbers in drawn["some"].items():
        np.testing.assert_array_equal(numbers, drawn["all"][name])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (_line(only=["4.*"]), r"directions\.alpha\.only: 4\.\* fits no parameter; there are: 0\.w"),
        (_line(only=["3.wieght"]), r"fits no parameter; near: 3\.weight, 0\.weight, 1\.weight"),
        (_line(only=["norms"]), r'norms fits no parameter; .*did you mean "norm"'),
        (_line(only=["frozen"]), r"directions\.alpha\.only: no parameter has the role frozen"),
        (
            _line(only=["3.bias"]),
            r"of only: \[3\.bias\] nothing moves beside ignore: \[bias, norm\]",
        ),
        ({"curvature": {"only": ["4.*"]}}, r"curvature\.only: 4\.\* fits no parameter"),
    ],
    ids=str,
)
def test_words_that_choose_nothing_are_refused(make_job, changes, says):
    """With the key, what is near or there, and before any cell."""
    job = jobs.load(make_job(**changes), command="eval")
    with pytest.raises(UsageError, match=says):
        prepare.check(job, prepare.load(job))


def test_a_hessian_is_of_what_is_chosen_and_moves(make_job):
    """Of the trainable parameters; the directions count at cells that ask for it."""
    curvature = {"only": ["3.*", "1.weight"], "ignore": ["bias"], "parameters": "moved"}
    job = jobs.load(make_job(curvature=curvature, **_line()), command="eval")
    model = prepare.load(job).model
    assert selection.hessian_names(job, model, at_cells=False) == ["1.weight", "3.weight"]
    assert selection.hessian_names(job, model, at_cells=True) == ["3.weight"]
    model[1].requires_grad_(False)
    model[3].requires_grad_(False)
    with pytest.raises(UsageError, match="only and ignore leave no trainable parameter"):
        selection.hessian_names(job, model, at_cells=False)


def test_status_says_what_is_not_chosen(make_job, tmp_path, capsys):
    """By the surface file alone, as the list says it before the run."""
    job = make_job(**_line(only=["3.*"]))
    assert main(["init", "--list", str(job)]) == 0
    listed = capsys.readouterr().out
    assert "not in only: 0.weight, 0.bias, 1.weight, 1.bias" in listed
    assert evaluate([job], Options(progress="none"), world=None) == 0
    found = store.read_parts(tmp_path / "job.h5")["alpha"]
    assert {why: part.names for why, part in found.items()} == {
        "moves": ["3.weight"],
        "not in only": ["0.weight", "0.bias", "1.weight", "1.bias"],
        "bias": ["3.bias"],
        "frozen statistics": ["1.running_mean", "1.running_var"],
    }
    assert "frozen statistics: 1.running_mean, 1.running_var" in listed
