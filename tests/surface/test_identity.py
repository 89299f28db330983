"""Identities: where two differ, and how they are read out of a file."""

from __future__ import annotations

import pytest

from lsengine.surface.identity import Difference, first_difference, read_identity


def test_the_first_difference_has_a_key_and_two_values():
    """Keys in order, contents of files last; what is a number of another type differs."""
    ours = {"a": {"x": 1, "y": 2}, "digests": {"data": "abc"}}
    assert first_difference(ours, ours) is None
    assert first_difference(ours, {**ours, "a": {"x": 1.0, "y": 2}}) == Difference("a.x", 1, 1.0)
    assert first_difference(ours, {"a": ours["a"]}).key == "digests.data"
    assert first_difference({"b": 0}, {"b": 0, "aa": 1}) == Difference("aa", "absent", 1)


def test_a_difference_is_told_with_the_names_of_its_places():
    """Values that look like the names of the places stay what they are."""
    difference = Difference("seed", "in the job", 2)
    assert str(difference) == 'seed is "in the job" in the job, 2 in the file'
    assert difference.words("here", "there") == 'seed is "in the job" here, 2 there'
    content = Difference("digests.data", "a", "b")
    assert content.words("here", "there") == "the content of data is not what it was"


@pytest.mark.parametrize("text", [None, "", "no JSON", "[1, 2]", 7])
def test_a_file_that_does_not_say_its_job_has_no_identity(text):
    """Whatever is there instead."""
    assert read_identity({} if text is None else {"identity": text}) is None


def test_an_identity_is_read_from_its_attribute():
    """A surface's is called so; other files have other names for theirs."""
    assert read_identity({"identity": '{"seed": 1}'}) == {"seed": 1}
    assert read_identity({"recipe": "{}"}, "recipe") == {}
