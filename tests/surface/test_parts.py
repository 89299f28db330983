"""Which parameters move along a direction, which stay, and why."""

from __future__ import annotations

import json

from lsengine.surface import parts

STATE = [("conv.weight", [2, 3], True), ("bn.weight", [2], True), ("bn.running_var", [2], False)]
STATE += [("bn.bias", [2], True), ("head.weight", [4, 2], True), ("other.weight", [5], True)]
ROLES = {"bias": ["bn.bias"], "norm": ["bn.weight", "bn.bias"], "one_axis": []}
BUT_HEAD = parts.Selection(ignore=("bias", "norm", "head.*"))


def test_the_first_word_that_fits_is_the_reason():
    """What no word leaves out and does not move is not in the direction; buffers are not told."""
    found = parts.parts(STATE, {"conv.weight"}, BUT_HEAD, ROLES)
    assert {why: part.names for why, part in found.items()} == {
        "moves": ["conv.weight"],
        "norm": ["bn.weight"],
        "bias": ["bn.bias"],
        "head.*": ["head.weight"],
        "not in it": ["other.weight"],
    }
    assert found["moves"].as_dict() == {"parameters": 1, "numbers": 6}


def test_ignoring_leaves_out_biases_and_normalisation():
    """The words bias and norm, and patterns, each leave out what they name."""
    names = ["conv.weight", "bn.weight", "bn.bias", "fc.weight", "fc.bias"]
    norm = {"norm": {"bn.weight", "bn.bias"}, "bias": {"bn.bias", "fc.bias"}}

    def moving(*ignore):
        return parts.Selection(ignore=ignore).of(names, norm)

    assert moving("bias", "norm") == ["conv.weight", "fc.weight"]
    assert moving("norm") == ["conv.weight", "fc.weight", "fc.bias"]
    assert moving("bias") == ["conv.weight", "bn.weight", "fc.weight"]
    assert moving("fc.*") == ["conv.weight", "bn.weight", "bn.bias"]
    assert moving() == names


def test_only_chooses_and_ignore_takes_away():
    """Patterns and roles alike; what is not chosen says so rather than its role."""
    names = [name for name, _, is_parameter in STATE if is_parameter]
    chosen = parts.Selection(("norm", "head.*"), ("bias",))
    assert chosen.of(names, ROLES) == ["bn.weight", "head.weight"]
    found = parts.parts(STATE, {"bn.weight", "head.weight"}, chosen, ROLES)
    assert {why: part.names for why, part in found.items()} == {
        "moves": ["bn.weight", "head.weight"],
        "not in only": ["conv.weight", "other.weight"],
        "bias": ["bn.bias"],
    }


def test_roles_survive_the_file():
    """Sorted names by word; what nothing has is left out."""
    assert json.loads(parts.roles_text(ROLES))["norm"] == ["bn.bias", "bn.weight"]
    assert "frozen" not in json.loads(parts.roles_text(ROLES))
    frozen = {**ROLES, "frozen": ["bn.weight"]}
    assert json.loads(parts.roles_text(frozen))["frozen"] == ["bn.weight"]
