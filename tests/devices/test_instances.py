"""MIG instances, as a launcher or a batch system lists them."""

from __future__ import annotations

import os

import pytest

from lsengine import job as jobs
from lsengine.devices import choose_instance
from lsengine.engine import Options
from lsengine.engine.messages import VisibleDevices
from lsengine.engine.run import Run
from tests.support.jobs import write_job


@pytest.mark.parametrize(
    ("visible", "slot", "expected"),
    [
        ("MIG-a,MIG-b", 0, "MIG-a"),
        ("MIG-a, MIG-b", 1, "MIG-b"),
        ("MIG-a,MIG-b", 2, "MIG-a"),  # more workers than instances
        ("MIG-b", 3, "MIG-b"),
        ("GPU-a,GPU-b", 1, "GPU-a,GPU-b"),  # torch counts whole cards
        ("0,1", 1, "0,1"),
    ],
)
def test_a_worker_sees_an_instance_of_its_own(monkeypatch, visible, slot, expected):
    """Others are hidden, since CUDA would take the first; whole cards stay as they are."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    choose_instance(slot)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == expected


def test_a_process_that_may_use_all_cards_still_may(monkeypatch):
    """The variable is not set where nobody has set it."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    choose_instance(1)
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_rank_0_counts_instances_without_touching_cuda(tmp_path, monkeypatch):
    """Two instances are two devices; which one it gets is still open."""
    run = Run(jobs.load(write_job(tmp_path, device="auto"), command="eval"), Options())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-a,MIG-b")
    assert run.visible_devices() == VisibleDevices("cuda", 2, "MIG-a,MIG-b")
