"""Errors of the user's: their exit codes, and their way between ranks."""

from __future__ import annotations

import pickle

from lsengine import errors
from lsengine.errors import JobError, LsengineError


def _classes(base):
    """Return a class and all that are derived from it."""
    return [base, *(c for below in base.__subclasses__() for c in _classes(below))]


def test_exit_codes_are_those_of_the_manual():
    """0 and 1 are taken, 75 means to try again, and what is derived keeps the code."""
    codes = {
        c.__name__: c.exit_code for c in _classes(LsengineError) if c.__module__ == errors.__name__
    }
    assert codes == {
        "LsengineError": 1,
        "UsageError": 2,
        "NothingToDraw": 2,
        "JobError": 2,
        "EnvironmentUnfit": 3,
        "SurfaceError": 4,
        "CellsFailed": 5,
        "Stopped": 75,
    }


def test_a_job_error_has_a_line_for_each_problem():
    """The first line counts them under the name of the file."""
    error = JobError("a.yaml", ["grid: required", "seed: got -1"])
    assert str(error).splitlines() == ["a.yaml: 2 problem(s)", "  grid: required", "  seed: got -1"]


def test_an_error_may_have_several_messages():
    """Its text has all of them."""
    assert str(errors.CellsFailed("a.h5: 1 failed\n  no", "b.h5: 2 failed")) == (
        "a.h5: 1 failed\n  no\nb.h5: 2 failed"
    )


def test_errors_travel_between_ranks():
    """What arrives has the class, the text and the code of what was sent."""
    sent = [kind("a message") for kind in _classes(LsengineError) if kind is not JobError]
    for error in (*sent, JobError("a.yaml", ["grid: required", "seed: got -1"])):
        found = pickle.loads(pickle.dumps(error))
        assert (type(found), str(found), found.exit_code) == (
            type(error),
            str(error),
            error.exit_code,
        )
    assert found.problems == ("grid: required", "seed: got -1")
