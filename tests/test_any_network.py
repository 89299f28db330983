"""Random networks and losses: each gives the values of plain float64, or is refused."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.support.network_verdicts import UNDULY, WRONG, judge, kind_of
from tests.support.random_networks import draw

FEW = range(40)
MANY = range(1000, 2000)
MOST_UNDULY = 0.01


@pytest.mark.parametrize("seed", FEW)
def test_a_random_network_is_right_or_refused(seed, tmp_path):
    """What is legitimate is right; nothing else is worse than refused."""
    verdict = judge(draw(seed), tmp_path / "job")
    assert verdict.outcome not in (WRONG, UNDULY), verdict


def test_a_seed_is_one_network():
    """Seeds can be told to others."""
    assert draw(3).code == draw(3).code
    assert len({draw(seed).code for seed in FEW}) == len(FEW)


@pytest.mark.slow
def test_no_value_of_many_networks_is_wrong(tmp_path):
    """A thousand networks; the reasons of refusals are printed with how often they came."""
    verdicts = [judge(draw(seed), tmp_path / str(seed)) for seed in MANY]
    refused = [v for v in verdicts if v.outcome != WRONG and v.reason]
    for reason, count in Counter(kind_of(v.reason) for v in refused).most_common():
        print(f"{count:5} {reason}")
    assert not [str(v) for v in verdicts if v.outcome == WRONG]
    unduly = [str(v) for v in verdicts if v.outcome == UNDULY]
    assert len(unduly) <= MOST_UNDULY * len(MANY), unduly
