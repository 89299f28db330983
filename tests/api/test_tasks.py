"""What is to be evaluated, as a value."""

from __future__ import annotations

import numpy as np
import pytest

from lsengine.api import tasks
from lsengine.errors import JobError, UsageError
from lsengine.external import user_code
from tests.support.memory import network, samples


def _task(**keys):
    keys = {
        "grid": {"alpha": (-1, 1, np.int64(3))},
        "directions": {"alpha": {"kind": "random"}},
    } | keys
    return tasks.in_memory(
        "evaluate",
        network(),
        samples(),
        command="eval",
        loss="mse",
        split="test",
        keys=keys,
        output=None,
    )


def test_a_job_in_memory_is_a_job(tmp_path):
    """Values of NumPy and tuples are what a file would say; checkpoints are in the folder."""
    task = _task(subset=5)
    with user_code.provided(task.objects):
        (job,) = task.jobs(tmp_path)
        assert job.own_modules == []
    assert job.checkpoint == tmp_path / "model.pt"
    assert job.output == tmp_path / "surface.h5"
    assert job.document.grid.alpha == (-1.0, 1.0, 3)
    assert job.document.data.splits == ["test"]
    assert job.document.data.subset == 5
    assert job.document.name == "Sequential"


def test_every_problem_is_told_at_once(tmp_path):
    """With the function's name first."""
    with pytest.raises(JobError, match="evaluate: 2 problem"):
        _task(precision="half", batch_size=0).jobs(tmp_path)


def test_directions_are_as_many_as_axes():
    """What moves is said of all; networks become files."""
    default = {axis: {"kind": "random"} for axis in ("alpha", "beta")}
    section, files = tasks.directions(None, default, {"alpha": [0, 1, 2]}, {"ignore": ["bias"]})
    assert section == {"alpha": {"kind": "random", "ignore": ["bias"]}}
    assert not files
    other = network(2)
    section, files = tasks.directions(tasks.toward([other, "b.pt"]), default, None, {})
    assert section["alpha"]["checkpoint"] == tasks.InFolder("toward-alpha.pt")
    assert section["beta"]["checkpoint"] == "b.pt"
    assert files == {"toward-alpha.pt": (other, None)}
    section, _ = tasks.directions(None, default, {"alpha": [0, 1, 2]}, {"only": "fc.*"})
    assert section["alpha"]["only"] == ["fc.*"]
    with pytest.raises(UsageError, match="ignore: say it in directions"):
        tasks.directions({}, default, None, {"ignore": []})
