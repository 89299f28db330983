"""What makes a training repeat itself, and leaves torch as it was."""

from __future__ import annotations

import pytest
import torch

from lsengine import job as jobs
from lsengine.training.determinism import deterministic_torch
from tests.support.jobs import write_job


@pytest.mark.parametrize(("device", "slot", "forked"), [("auto", 3, ["cuda:3"]), ("cpu", 3, [])])
def test_only_the_trainings_own_device_is_touched(tmp_path, monkeypatch, device, slot, forked):
    """Four trainings on four cards: none opens a context on the first card of another."""
    found = []

    def fork(devices):
        found.extend(str(d) for d in devices)
        return original([])

    original = torch.random.fork_rng
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.random, "fork_rng", fork)
    job = jobs.load(write_job(tmp_path, device=device))
    with deterministic_torch(job, slot=slot):
        pass
    assert found == forked


@pytest.mark.parametrize(("asked", "threads"), [("auto", 3), (2, 2)])
def test_threads_are_the_slots_where_the_job_leaves_them_open(tmp_path, asked, threads):
    """Within the context; afterwards they are as they were."""
    job, before = jobs.load(write_job(tmp_path, threads=asked)), torch.get_num_threads()
    with deterministic_torch(job, threads=3):
        assert torch.get_num_threads() == threads
    assert torch.get_num_threads() == before
