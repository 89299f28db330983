"""Single values of a job file: what is taken, and what is said of the rest."""

from __future__ import annotations

import re
from typing import Annotated

import pytest
from pydantic import TypeAdapter, ValidationError

from lsengine.job import value_types
from lsengine.job.value_types import AutoOrCount, AxisSpec, Count, Distinct, Line, Seed, Word


def _refusal(kind, value):
    with pytest.raises(ValidationError) as refused:
        TypeAdapter(kind).validate_python(value)
    return refused.value.errors()[0]["msg"]


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ([-1, 1, 5], (-1.0, 1.0, 5)),
        ((0.5, 0.5, 1), (0.5, 0.5, 1)),
        (["auto", 7], ("auto", 7)),
    ],
)
def test_an_axis_is_a_range_or_fits_a_trajectory(given, taken):
    """One point needs no extent; in a file it is a list again."""
    found = TypeAdapter(AxisSpec).validate_python(given)
    assert found == taken
    assert TypeAdapter(AxisSpec).dump_python(found) == list(taken)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("wide", "expected [start, stop, points] or [auto, points]"),
        ([1, 2, 3, 4], "expected [start, stop, points] or [auto, points]"),
        ([0, 1, True], "points is an integer of at least 1"),
        ([0, 1, 0], "points is an integer of at least 1"),
        ([0, 5], "expected [start, stop, points] or [auto, points]"),
        (["auto", 1, 5], "start and stop are numbers"),
        ([False, 1, 5], "start and stop are numbers"),
        ([0, float("nan"), 5], "start and stop are finite"),
        ([-1e31, 1, 5], "start and stop are 0 or of a size from 1e-30 to 1e+30"),
        ([0, 1e-31, 5], "start and stop are 0 or of a size from 1e-30 to 1e+30"),
        ([1, -1, 5], "start must not be greater than stop"),
        ([0, 1, 1], "with one point start and stop must be equal"),
    ],
)
def test_what_is_no_axis_is_told_the_shape_of_one(given, said):
    """And which part of it is wrong, where that can be said."""
    assert said in _refusal(AxisSpec, given)


@pytest.mark.parametrize("value", [0, -1, 2.0, True, "many", None])
def test_a_number_that_may_be_automatic_is_a_count_or_auto(value):
    """Neither a float nor a truth is taken for a count."""
    assert TypeAdapter(AutoOrCount).validate_python("auto") == "auto"
    assert TypeAdapter(AutoOrCount).validate_python(3) == 3
    assert 'expected "auto" or an integer of at least 1' in _refusal(AutoOrCount, value)


def test_entries_of_a_list_are_there_once():
    """The order stays as it is."""
    kind = Annotated[list[str], Distinct]
    assert TypeAdapter(kind).validate_python(["b", "a"]) == ["b", "a"]
    assert "expected each entry once" in _refusal(kind, ["a", "b", "a"])


@pytest.mark.parametrize("text", ["", "two\nlines", "a\rb", "a\0b"])
def test_a_line_is_one_line(text):
    """What goes into a script of a cluster cannot begin another command on a line of its own."""
    assert TypeAdapter(Line).validate_python("--mem=4G  # all") == "--mem=4G  # all"
    assert "expected one line of text" in _refusal(Line, text)


@pytest.mark.parametrize("text", ["", "two words", "a\tb", "a\0b"])
def test_a_word_has_no_space(text):
    """It is one argument wherever it is put."""
    assert TypeAdapter(Word).validate_python("gpu:h100:4") == "gpu:h100:4"
    assert "match" in _refusal(Word, text)


def test_numbers_have_their_bounds():
    """A count begins with 1, and a seed has at most 63 bits."""
    assert TypeAdapter(Seed).validate_python(2**63 - 1) == 2**63 - 1
    assert "less than" in _refusal(Seed, 2**63)
    assert "greater than or equal to 1" in _refusal(Count, 0)


@pytest.mark.parametrize(
    ("text", "is_time"),
    [
        *(("90", True), ("1:30", True), ("24:00:00", True), ("2-12", True), ("2-12:30:00", True)),
        *(("", False), ("1h", False), ("1:2:3:4", False), ("1:234", False), ("-1", False)),
    ],
)
def test_times_are_written_as_slurm_has_them(text, is_time):
    """Minutes, with seconds, with hours, or with days before a dash."""
    assert bool(re.match(value_types.TIME, text)) == is_time


@pytest.mark.parametrize(
    ("text", "is_name"), [("small_net2", True), ("_x", True), ("2nd", False), ("a-b", False)]
)
def test_names_are_those_of_variables(text, is_name):
    """A letter or an underscore comes first."""
    assert bool(re.match(value_types.NAME, text)) == is_name


@pytest.mark.parametrize("value", [1, True, 0.5])
def test_what_yaml_reads_as_no_text_is_to_be_quoted(value):
    """How it was written cannot be known any more."""
    assert "write it in quotes" in _refusal(value_types.Quoted, value)
    assert TypeAdapter(value_types.Quoted).validate_python("1") == "1"
