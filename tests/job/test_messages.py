"""Pydantic's errors as lines for a person."""

from __future__ import annotations

import copy

import pytest
from pydantic import ValidationError

from lsengine.job.messages import drop, explain
from lsengine.job.schema import Document
from tests.job.conftest import MINIMAL


def _explained(**changes):
    raw = {"name": "some", **copy.deepcopy(MINIMAL), **changes}
    with pytest.raises(ValidationError) as refused:
        Document.model_validate(raw)
    return explain(refused.value, raw)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"seed": -1}, "seed: expected at least 0, got -1"),
        ({"seed": "many"}, 'seed: expected integer, got "many"'),
        ({"precision": "flot32"}, 'precision: got "flot32"; allowed: '),
        ({"model": {"checkpoint": "a.pt"}}, "model.arch: required, but missing"),
        (
            {"model": {"arch": "mlp", "chekpoint": "a"}},
            "model.chekpoint: unknown key; did you mean",
        ),
        ({"model": {"arch": "mlp", "xyzzy": 1}}, "model.xyzzy: unknown key; allowed: arch"),
        (
            {"data": {"dataset": "digits", "splits": ["train", "tset"]}},
            'data.splits[1]: got "tset"; allowed: train, test; did you mean "test"?',
        ),
        ({"directions": {"alpha": {"seed": 1}}}, "directions.alpha.kind: required, but missing"),
        (
            {"directions": {"alpha": {"kind": "randm"}}},
            'directions.alpha.kind: got "randm"; allowed: ',
        ),
        (
            {"directions": {"alpha": {"kind": "random", "sed": 1}}},
            'directions.alpha.sed: unknown key; did you mean "seed"?',
        ),
        ({"grid": {"alpha": "wide"}}, "grid.alpha: expected [start, stop, points] or [auto, p"),
    ],
)
def test_a_line_has_the_path_as_the_user_wrote_it(changes, expected):
    """Without the names that pydantic gives to the members of a union."""
    (line,) = _explained(**changes)
    assert line.startswith(expected), line


def test_every_key_has_one_line():
    """Two wrong keys are two lines; what is said twice of one key is said once."""
    lines = _explained(seed=-1, repeats=0)
    assert sorted(line.partition(":")[0] for line in lines) == ["repeats", "seed"]


def test_a_job_that_is_no_mapping_is_called_a_job():
    """There is no key to name."""
    with pytest.raises(ValidationError) as refused:
        Document.model_validate(7)
    (line,) = explain(refused.value, 7)
    assert line.startswith("job: expected ")


@pytest.mark.parametrize(
    ("where", "left"),
    [
        (("b", "y"), {"a": 1, "b": {"x": [1, {"z": 2}]}}),
        (("b", "tag", "x", 1, "z"), {"a": 1, "b": {"x": [1, {}], "y": 3}}),  # a union's tag
        (("a", "absent"), {"b": {"x": [1, {"z": 2}], "y": 3}}),
        (("b", "x", 0), {"a": 1, "b": {"x": [1, {"z": 2}], "y": 3}}),  # not out of a list
        ((), {"a": 1, "b": {"x": [1, {"z": 2}], "y": 3}}),
    ],
)
def test_a_wrong_key_is_dropped_so_that_its_neighbours_are_checked(where, left):
    """The deepest of the location that is in the input, if it has a name."""
    raw = {"a": 1, "b": {"x": [1, {"z": 2}], "y": 3}}
    drop(raw, where)
    assert raw == left
