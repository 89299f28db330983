"""Settings that may change last bits, compared between runs, ranks and files."""

from __future__ import annotations

import pytest

from lsengine.surface.settled import SETTLED, disagreements, tolerance

ALL = {
    "batch_size": 16,
    "cells_per_pass": 1,
    "device_kind": "cpu AVX2",
    "forward": "fused",
    "threads": 4,
    "torch_version": "2.13",
}


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
