"""Some damaged and hostile surfaces, jobs, checkpoints and surroundings; `make fuzz` has more."""

from __future__ import annotations

import pytest

from tests.fuzz import confined, driver

CASES = {"surfaces": 100, "flips": 100, "jobs": 100, "checkpoints": 100, "data": 40, "places": 40}

pytestmark = pytest.mark.skipif(not confined.version(), reason="this kernel has no Landlock")


@pytest.fixture(scope="module")
def batches(tmp_path_factory):
    """What became of the first cases of each kind, all in one warm process."""
    wanted = [(kind, 0, count) for kind, count in CASES.items()]
    return {batch.kind: batch for batch in driver.run(wanted)}


@pytest.mark.parametrize("kind", CASES)
def test_nothing_wrong_leaked_overwritten_or_hung(batches, kind):
    """Every command ends as documented, and with 0 only if its values are the good run's."""
    batch = batches[kind]
    assert not batch.problems, driver.table([batch])
    assert batch.commands >= CASES[kind] * 0.9
    assert len(batch.codes) > 1, "all ended alike: nothing was tried"
