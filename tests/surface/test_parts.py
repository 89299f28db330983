"""Which parameters move along a direction, which stay, and why."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from lsengine.surface import parts

STATE = [("conv.weight", [2, 3], True), ("bn.weight", [2], True), ("bn.running_var", [2], False)]
STATE += [("bn.bias", [2], True), ("head.weight", [4, 2], True), ("other.weight", [5], True)]
ROLES = {"bias": ["bn.bias"], "norm": ["bn.weight", "bn.bias"], "one_axis": []}
BUT_HEAD = parts.Selection(ignore=("bias", "norm", "head.*"))


def test_the_first_word_that_fits_is_the_reason():
    """What no word leaves out and does not move is not in the direction."""
    found = parts.parts(STATE, {"conv.weight"}, BUT_HEAD, ROLES)
    assert {why: part.names for why, part in found.items()} == {
        "moves": ["conv.weight"],
        "norm": ["bn.weight"],
        "bias": ["bn.bias"],
        "head.*": ["head.weight"],
        "not in it": ["other.weight"],
    }
    assert found["moves"].as_dict() == {"parameters": 1, "numbers": 6, "filters": 2, "single": 0}


@pytest.mark.parametrize(
    ("policy", "moved", "why"),
    [
        ("", set(), None),
        ("frozen", set(), "frozen statistics"),
        ("recalibrated", set(), "recalibrated statistics"),
        ("interpolated", set(), "kept statistics"),
        ("interpolated", {"bn.running_var"}, "moving statistics"),
        ("", {"bn.running_var"}, "moving statistics"),
    ],
)
def test_statistics_are_no_parameters_and_have_a_part_of_their_own(policy, moved, why):
    """It says what becomes of them, and they do not count among the parameters."""
    norm = {**ROLES, "norm": [*ROLES["norm"], "bn.running_var"]}
    found = parts.parts(STATE, {"conv.weight"} | moved, parts.EVERYTHING, norm, policy)
    assert [w for w, part in found.items() if "bn.running_var" in part.names] == [why] * bool(why)
    words = parts.text(found)
    assert words.startswith("1 of 5 parameters moves (6 numbers, 2 filters); stays: not in it 4")
    assert words.endswith(f"; running statistics: {why.split()[0]} 1" if why else "more)")


def test_filters_are_slices_along_the_first_axis():
    """A parameter with one axis or none is one; those of one number are counted apart."""
    state = [("a", [3, 2, 1], True), ("b", [4, 1, 1], True), ("c", [5], True), ("d", [], True)]
    found = parts.parts(state, set("abcd"), parts.EVERYTHING, {})["moves"]
    assert found.as_dict() == {"parameters": 4, "numbers": 16, "filters": 9, "single": 5}
    assert "16 numbers, 9 filters, 5 of one number" in parts.text({"moves": found})


def test_a_direction_is_as_long_as_its_kinds_of_parameters():
    """Against plain sums of squares; of repeats the last one; filters of zeros are counted."""
    direction = {
        "conv.weight": np.array([[3.0, 4.0, 0.0], [0.0, 0.0, 0.0]], np.float32),
        "bn.weight": np.array([2.0, 1.0], np.float32),
        "bn.bias": np.zeros(2, np.float32),
        "bn.running_var": np.array([6.0, 8.0]),
        "other.weight": np.array([1 + 2j, 2j, 0, 0, 0]),
    }
    roles = {"bias": ["bn.bias", "other.weight"], "norm": ["bn.weight", "bn.bias"]}
    found = parts.size(direction, STATE, roles)
    assert found.lengths == {
        "weights": 5.0, "biases": 3.0, "norm": 5**0.5, "statistics": 10.0,
    }  # fmt: skip
    assert found.zero_filters == 2
    assert found.length == pytest.approx((25 + 9 + 5 + 100) ** 0.5)
    assert found.share_of_statistics == pytest.approx(10 / 139**0.5)
    repeats = {name: np.stack([np.ones_like(v), v]) for name, v in direction.items()}
    assert parts.size(repeats, STATE, roles) == found
    assert json.loads(parts.sizes_text({"beta": found}))["beta"] == {
        "lengths": {"weights": 5.0, "biases": 3.0, "norm": 2.23607, "statistics": 10.0},
        "zero_filters": 2,
    }


def test_a_direction_that_is_not_finite_has_such_a_length():
    """It survives the file."""
    found = parts.size({"other.weight": np.array([np.nan, 1, 1, 1, 1])}, STATE, ROLES)
    assert math.isnan(json.loads(parts.sizes_text({"alpha": found}))["alpha"]["lengths"]["weights"])


def test_long_parameters_lose_nothing_in_float32():
    """Four million numbers of 1e-20, whose squares float32 does not hold."""
    state = [("w", [2**22], True)]
    found = parts.size({"w": np.full(2**22, 1e-20, np.float32)}, state, {})
    assert found.lengths["weights"] == pytest.approx(2**11 * 1e-20, rel=1e-6)


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
