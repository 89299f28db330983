"""Identities: where two differ, and how they are read out of a file."""

from __future__ import annotations

import pytest

from lsengine.surface.identity import (
    SETTLED,
    Difference,
    differs_in_sources_known,
    disagreements,
    first_difference,
    read_identity,
    tolerance,
)

ALL = {
    "batch_size": 16,
    "cells_per_pass": 1,
    "device_kind": "cpu AVX2",
    "forward": "fused",
    "products_by": "forward",
    "threads": 4,
    "torch_version": "2.13",
}


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


def test_sources_are_compared_where_both_know_them():
    """What only one side knows does not differ, but it is known which case it is."""
    ours, older = {"a": 1, "code": {"net.py": "x", "b.py": "y"}}, {"a": 1}
    assert first_difference(ours, older) is None
    assert differs_in_sources_known(ours, older)
    assert not differs_in_sources_known(ours, ours)
    assert not differs_in_sources_known(ours, {"a": 2})
    edited = first_difference(ours, {"a": 1, "code": {"net.py": "z"}})
    assert str(edited) == "the source net.py is not what it was"


@pytest.mark.parametrize("text", [None, "", "no JSON", "[1, 2]", 7])
def test_a_file_that_does_not_say_its_job_has_no_identity(text):
    """Whatever is there instead."""
    assert read_identity({} if text is None else {"identity": text}) is None


def test_an_identity_is_read_from_its_attribute():
    """A surface's is called so; other files have other names for theirs."""
    assert read_identity({"identity": '{"seed": 1}'}) == {"seed": 1}
    assert read_identity({"recipe": "{}"}, "recipe") == {}


@pytest.mark.parametrize("name", SETTLED)
def test_every_setting_is_compared(name):
    """By its name, with both values."""
    (found,) = disagreements(ALL, {**ALL, name: "another"})
    assert (found.key, found.ours, found.theirs) == (name, ALL[name], "another")
    assert disagreements(ALL, dict(ALL)) == []


def test_what_one_side_does_not_know_is_not_compared():
    """Older files say less; a bare cpu is any processor, and one cell a pass is the default."""
    older = {"device_kind": "cpu", "threads": 4, "torch_version": "2.13", "batch_size": 16}
    assert disagreements(ALL, older) == disagreements(older, ALL) == []
    assert [d.key for d in disagreements({**ALL, "cells_per_pass": 8}, older)] == ["cells_per_pass"]
    assert [d.key for d in disagreements(ALL, {"device_kind": "cuda A100"})] == ["device_kind"]


def test_slower_precisions_agree_better():
    """Each has a tolerance."""
    order = ["float64", "float32", "tf32", "bfloat16"]
    assert sorted(order, key=tolerance) == order
