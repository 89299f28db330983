"""The evaluator: its check of the centre, and who is to blame if that fails."""

from __future__ import annotations

import pytest

from lsengine import store
from lsengine.engine import Options, evaluate
from lsengine.errors import UsageError
from lsengine.objective import device_state


def test_a_centre_that_is_not_the_checkpoint_stops_the_run(make_job, monkeypatch):
    """If displacing were wrong by a little, the naive twin would say so."""
    displace = device_state.Vectors.displace

    def wrong(self, cell, out):
        displace(self, cell, out)
        out.mul_(1.001)

    monkeypatch.setattr(device_state.Vectors, "displace", wrong)
    job = make_job()
    with pytest.raises(UsageError, match=r"at alpha=0 beta=0 are .*by a plain evaluation"):
        evaluate([job], Options(progress="none"), world=None)
    assert store.read(job.with_suffix(".h5")).counts()["done"] == 0


def test_a_network_of_chance_is_no_bug(make_job):
    """Dropout that evaluation mode leaves on is the user's to switch off, and said so."""
    job = make_job(model={"arch": "testnets:Chance", "checkpoint": "centre.pt"})
    with pytest.raises(UsageError, match="two evaluations of the same weights differ"):
        evaluate([job], Options(progress="none"), world=None)
