"""Which parameters move along a direction, which stay, and why."""

from __future__ import annotations

from lsengine.surface import parts

STATE = [("conv.weight", [2, 3], True), ("bn.weight", [2], True), ("bn.running_var", [2], False)]
STATE += [("bn.bias", [2], True), ("head.weight", [4, 2], True), ("other.weight", [5], True)]
ROLES = {"bias": ["bn.bias"], "norm": ["bn.weight", "bn.bias"], "one_axis": []}


def test_the_first_word_that_fits_is_the_reason():
    """What no word leaves out and does not move is not in the direction; buffers are not told."""
    found = parts.parts(STATE, {"conv.weight"}, ["bias", "norm", "head.*"], ROLES)
    assert {why: part.names for why, part in found.items()} == {
        "moves": ["conv.weight"],
        "norm": ["bn.weight"],
        "bias": ["bn.bias"],
        "head.*": ["head.weight"],
        "not in it": ["other.weight"],
    }
    assert found["moves"].as_dict() == {"parameters": 1, "numbers": 6}


def test_roles_survive_the_file():
    """Sorted names by word; a file without them says nothing."""
    assert parts.read_roles(parts.roles_text(ROLES))["norm"] == ["bn.bias", "bn.weight"]
    assert parts.read_roles("") == {}
