"""What a job may say of a direction."""

from __future__ import annotations

import pytest

from lsengine.job.direction_types import UnitsSpec
from tests.job.conftest import problems_of

TO_CURVE = {"kind": "curve", "path": "centre.pt"}


@pytest.mark.parametrize(
    ("direction", "says"),
    [
        (
            {"normalize": "heads"},
            'normalize: got "heads"; allowed: filter, layer, weight, none, head; did',
        ),
        (
            {"normalize": {"attention": "row"}},
            'normalize.attention: got "row"; allowed: head, balanced, filter, layer',
        ),
        (
            {"normalize": {"atention": "head"}},
            'normalize.atention: unknown key; did you mean "attention"?',
        ),
        ({"normalize": {"heads": 0}}, "normalize.heads: expected at least 1, got 0"),
        ({"normalize": 3}, "normalize: got 3; allowed: filter"),
        ({"only": []}, "only: expected List should have at least 1 item"),
        ({"only": ["a", "a"]}, "only: expected each entry once"),
        ({"only": "bias"}, "only: expected list"),
        ({**TO_CURVE, "only": ["a"]}, "only: a curve moves what connect has trained; give curve.o"),
    ],
    ids=str,
)
def test_wrong_words_are_told_apart(load, direction, says):
    """A word is compared with words, a mapping with keys; the path is that of the file."""
    problems = problems_of(load, directions={"alpha": {"kind": "random", **direction}}, grid=None)
    assert any(problem.startswith(f"directions.alpha.{says}") for problem in problems), problems


@pytest.mark.parametrize("normalize", ["filter", "head", {"attention": "balanced", "heads": 4}])
def test_what_is_left_out_stays_open(load, normalize):
    """A word is kept as it is; a mapping knows what it was not told."""
    alpha = {"kind": "random", "normalize": normalize}
    job = load(directions={"alpha": alpha}, grid={"alpha": [-1, 1, 3]})
    found = job.directions["alpha"].normalize
    if isinstance(normalize, str):
        assert found == normalize
    else:
        assert found == UnitsSpec(attention="balanced", heads=4)
        assert found.lora is None
