"""A small job that tests change."""

from __future__ import annotations

import pytest
import yaml

from lsengine import job as jobs
from lsengine.errors import JobError

MINIMAL = {
    "model": {"arch": "resnet20", "checkpoint": "centre.pt"},
    "data": {"dataset": "digits"},
    "directions": {"alpha": {"kind": "random"}, "beta": {"kind": "random"}},
    "grid": {"alpha": [-1, 1, 5], "beta": [-1, 1, 3]},
}


@pytest.fixture
def load(tmp_path):
    """Write a job (changes replace sections) with a checkpoint beside it, and load it."""

    def write_and_load(command="eval", text=None, **changes):
        (tmp_path / "centre.pt").touch()
        path = tmp_path / "some.yaml"
        path.write_text(text or yaml.safe_dump({**MINIMAL, **changes}))
        return jobs.load(path, command=command)

    return write_and_load


def problems_of(load, **changes):
    """Return what is wrong with a changed job."""
    with pytest.raises(JobError) as caught:
        load(**changes)
    return list(caught.value.problems)
