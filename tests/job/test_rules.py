"""What is wrong between keys that are right one by one."""

from __future__ import annotations

import pytest

from lsengine.job.rules import (
    automatic_axes,
    between_keys,
    directions_of,
    is_curve_plane,
    trajectory_glob,
)
from lsengine.job.schema import Document
from tests.job.conftest import MINIMAL, problems_of

CURVE = {"kind": "curve", "path": "c.pt"}
HESSIAN = {"kind": "hessian"}
PRINCIPAL = {"kind": "principal", "checkpoints": "run/epoch_*.pt"}
RANDOM = {"kind": "random"}
RUN = {"checkpoints": "run/epoch_*.pt"}


def _document(**changes):
    """Return the keys of the small job, some of them replaced; None leaves one out."""
    kept = {k: v for k, v in {**MINIMAL, **changes}.items() if v is not None}
    return Document.model_validate({"name": "some", **kept})


def _line(alpha, grid=(0, 1, 3), **more):
    """Return the changes of a job along one direction."""
    return {"directions": {"alpha": alpha}, "grid": {"alpha": list(grid)}, **more}


def _plane(alpha, beta, **more):
    """Return the changes of a job with two directions."""
    return {"directions": {"alpha": alpha, "beta": beta}, **more}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"data": {"dataset": "cifar10"}}, "data.root: required for dataset cifar10"),
        ({"grid": {"alpha": [-1, 1, 5]}}, "grid.beta: required, because directions.beta"),
        (
            {"directions": {"alpha": {"kind": "random"}}},
            "directions.beta: required, because grid.beta",
        ),
        ({"repeats": 3}, "repeats: got 3; two directions allow 1 only"),
        (
            {
                "directions": {
                    "alpha": {"kind": "random", "orthogonal": True},
                    "beta": {"kind": "random"},
                }
            },
            "directions.alpha.orthogonal: alpha is drawn first",
        ),
        ({"data": {"dataset": "digitz"}}, 'did you mean "digits"?'),
        ({"loss": "crossentropy"}, 'did you mean "cross_entropy"?'),
    ],
)
def test_a_loaded_job_names_what_does_not_go_together(load, changes, expected):
    """One contradiction, one line that starts with a key path."""
    problems = problems_of(load, **changes)
    assert any(expected in p for p in problems), problems
    assert len(problems) == 1, problems


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model": {"arch": "resnet21"}}, 'model.arch: got "resnet21"; allowed: a zoo name'),
        (
            {"data": {"dataset": "digits", "splits": ["test"]}, "batch_norm": "recalibrated"},
            "batch_norm: recalibrated is from training samples",
        ),
        (
            {"grid": {"alpha": [0, 1, 20_000], "beta": [0, 1, 20_000]}},
            "grid: makes 400,000,000 cells; allowed: at most 100,000,000",
        ),
        (
            {"grid": {"alpha": ["auto", 5], "beta": [0, 1, 2]}},
            "grid.alpha: auto needs a trajectory",
        ),
        ({"trajectory": {"margin": 0.1}}, "trajectory.checkpoints: required"),
        (_plane(PRINCIPAL, PRINCIPAL, trajectory={"checkpoints": "b_*.pt"}), "leave it out"),
        (_plane(PRINCIPAL, {**PRINCIPAL, "ignore": ["bias"]}), "components of one run"),
        (_plane(CURVE, RANDOM), "directions: a curve is alpha alone, along it, or both axes"),
        (_plane(CURVE, {**CURVE, "bend": 2}), "directions.beta: must be the same as directions.a"),
        (_line(CURVE, ["auto", 3], trajectory=RUN), "a curve goes from 0 to 1"),
        (_line(CURVE, [-1, 1, 3]), "grid.alpha: got [-1.0, 1.0, 3]; a curve goes from 0 to 1"),
        (_line(CURVE, trajectory=RUN), "trajectory: cannot be projected on a curve"),
        (
            {"quantities": ["curvature"], "data": {"dataset": "digits", "splits": ["test"]}},
            "quantities: curvature is of the training loss; data.splits needs train",
        ),
        (
            _line(HESSIAN, curvature={"max_products": 10}),
            "at most curvature.max_products, which is 10",
        ),
        (
            _line({**HESSIAN, "rank": 8}, curvature={"basis": 16}),
            "directions.alpha.rank: got 8; curvature.basis 16 has room for ranks up to 7",
        ),
        (
            _line(HESSIAN, precision="float64", curvature={"precision": "tf32"}),
            "curvature.precision: tf32 rounds what precision: float64 asks for",
        ),
        (_plane(HESSIAN, HESSIAN), "directions.beta: the same eigenvector as alpha"),
        (_line(RANDOM, trajectory=RUN, repeats=2), "a trajectory is projected on one set"),
        (
            _line({"kind": "toward", "checkpoint": "b.pt"}, repeats=2),
            "only directions of kind random differ between repeats, got kind toward",
        ),
    ],
)
def test_contradictions_are_named_before_any_work(load, changes, expected):
    """With the key path and what is allowed, and without a look at any file."""
    without_files = list(between_keys(_document(**changes)))
    for problems in (without_files, problems_of(load, **changes)):
        assert any(expected in problem for problem in problems), problems


@pytest.mark.parametrize(
    "changes",
    [
        {},
        _line(CURVE),
        _line(RANDOM, repeats=5),
        _line(RANDOM, trajectory=RUN),
        _plane(CURVE, CURVE, grid={"alpha": ["auto", 5], "beta": ["auto", 3]}),
        _plane(PRINCIPAL, PRINCIPAL, grid={"alpha": ["auto", 5], "beta": ["auto", 3]}),
        _plane(HESSIAN, {**HESSIAN, "rank": 2}, quantities=["loss", "curvature"]),
        {"model": {"arch": "networks:mine"}, "loss": "losses:mine"},
    ],
)
def test_what_goes_together_is_not_objected_to(changes):
    """A rule that refused these would refuse jobs of the manual."""
    assert list(between_keys(_document(**changes))) == []


def test_sections_that_are_wrong_by_themselves_are_passed_over():
    """They are None then, and every rule goes by what is left."""
    document = Document.model_construct(**dict.fromkeys(Document.model_fields))
    assert list(between_keys(document)) == []


def test_directions_stand_by_axis_with_alpha_first():
    """An axis without a direction is left out."""
    both = directions_of(_document(**_plane(RANDOM, HESSIAN)))
    assert [(axis, spec.kind) for axis, spec in both.items()] == [
        ("alpha", "random"),
        ("beta", "hessian"),
    ]
    assert [*directions_of(_document(**_line(RANDOM)))] == ["alpha"]
    assert directions_of(_document(directions=None)) == {}


def test_a_plane_of_a_curve_has_it_on_both_axes():
    """Along the curve alone is no plane, and a plane of random directions is not of a curve."""
    assert is_curve_plane(_document(**_plane(CURVE, CURVE)))
    assert not is_curve_plane(_document(**_line(CURVE)))
    assert not is_curve_plane(_document())


def test_the_checkpoints_of_a_trajectory_are_those_of_its_principal_directions():
    """Else its own section's; the key path goes with them, for messages."""
    principal = _document(**_plane(RANDOM, PRINCIPAL))
    assert trajectory_glob(principal) == ("directions.beta.checkpoints", "run/epoch_*.pt")
    own = _document(trajectory={"checkpoints": "a_*.pt"})
    assert trajectory_glob(own) == ("trajectory.checkpoints", "a_*.pt")
    assert trajectory_glob(_document(trajectory={"margin": 0.1})) is None
    assert trajectory_glob(_document()) is None


def test_axes_that_fit_a_trajectory_are_found():
    """Those that say auto in place of a start and a stop."""
    some = _document(grid={"alpha": [0, 1, 2], "beta": ["auto", 3]})
    assert automatic_axes(some) == ["beta"]
    assert automatic_axes(_document()) == []
