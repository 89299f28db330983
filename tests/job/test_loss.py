"""What a job may say of its loss."""

from __future__ import annotations

import pytest

from lsengine.job import loss
from lsengine.job.loss import LossSpec
from lsengine.job.schema import Document, json_schema
from lsengine.surface.identity import fingerprint
from tests.job.conftest import MINIMAL, problems_of


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("mse", "mse"),
        ({"name": "mse"}, "mse"),
        (
            {"name": "cross_entropy", "weight": [1, 2.5], "label_smoothing": 0.1},
            {"name": "cross_entropy", "weight": [1.0, 2.5], "label_smoothing": 0.1},
        ),
        ({"name": "a:b", "class_axis": "last"}, {"name": "a:b", "class_axis": "last"}),
        (
            {"name": "cross_entropy", "class_axis": "second", "ignore_index": -1},
            {"name": "cross_entropy", "ignore_index": -1},
        ),
        ({"name": "cross_entropy", "class_axis": "second"}, "cross_entropy"),
    ],
)
def test_the_identity_has_a_name_or_what_is_given(load, written, expected):
    """A name alone is the text that files have; classes were on the second axis before the key."""
    job = load(loss=written)
    assert job.identity({})["loss"] == expected
    assert fingerprint(job.identity({})) == fingerprint(load(loss=expected).identity({}))


def test_a_loss_with_options_goes_through_the_text_of_a_job(load):
    """The document as YAML means the same."""
    written = {"name": "huber", "delta": 0.5}
    job = load(loss=written)
    assert job.document.loss_spec == LossSpec(name="huber", delta=0.5)
    again = load(text=job.resolved())
    assert again.document.loss == job.document.loss
    assert load(loss="mse").document.loss == load(loss={"name": "mse"}).document.loss == "mse"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("", "loss: expected "),
        (3, "loss: expected string, got 3"),
        ({"delta": 1}, "loss.name: required, but missing"),
        ({"name": "huber", "dleta": 1}, 'loss.dleta: unknown key; did you mean "delta"?'),
        ({"name": "huber", "delta": 0}, "loss.delta: expected greater than 0, got 0"),
        ({"name": "cross_entropy", "class_axis": "first"}, 'loss.class_axis: got "first"; allowed'),
        ({"name": "mse", "delta": 1}, "loss.delta: mse takes no options"),
        ({"name": "nll", "pos_weight": 1}, "loss.pos_weight: nll takes weight, ignore_index"),
        ({"name": "output", "weight": [1]}, "loss.weight: output takes no options"),
        ({"name": "a:b", "weight": [1]}, "loss.weight: a loss of your own takes class_axis only"),
        ({"name": "crossentropy", "weight": [1]}, 'did you mean "cross_entropy"?'),
        ({"name": "nll", "weight": [0, 0]}, "loss.weight: all are 0"),
        (
            {"name": "cross_entropy", "weight": [0, 1], "label_smoothing": 0.1},
            "loss.weight: got 0 with label_smoothing",
        ),
        ({"name": "cross_entropy", "label_smoothing": 1.5}, "loss.label_smoothing: expected"),
    ],
)
def test_what_a_loss_does_not_take_is_refused(load, written, expected):
    """One line for each, with what is allowed."""
    problems = problems_of(load, loss=written)
    assert len(problems) == 1
    assert expected in problems[0]


def test_the_options_of_every_loss_are_keys():
    """And the JSON schema has a name, or these."""
    options = {name for several in loss.OPTIONS.values() for name in several}
    assert options == LossSpec.model_fields.keys() - {"name"}
    written = json_schema()
    assert {"type": "string", "minLength": 1} in written["properties"]["loss"]["anyOf"]
    assert written["$defs"]["LossSpec"]["properties"].keys() == LossSpec.model_fields.keys()
    assert Document(name="a", **MINIMAL).loss_spec == LossSpec(name="cross_entropy")


def test_an_objective_has_no_loss_in_the_identity(load):
    """What is not evaluated does not count."""
    identity = load(objective="a:b", quantities=["loss"]).identity({})
    assert identity["objective"] == "a:b"
    assert "loss" not in identity
