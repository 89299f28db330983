"""Systems without calls that Linux alone has."""

from __future__ import annotations

import os

from lsengine import store
from lsengine.cli import main
from lsengine.doctor.probe import look


def test_a_surface_is_evaluated_where_linux_calls_are_missing(make_job, monkeypatch):
    """MacOS reserves no room with `posix_fallocate`, and has no affinities of processes."""
    monkeypatch.delattr(os, "posix_fallocate")
    monkeypatch.delattr(os, "sched_getaffinity")
    job = make_job(threads="auto", grid={"alpha": [-1, 1, 2], "beta": [0, 1, 2]})
    assert main(["eval", str(job)]) == 0
    assert store.read(job.with_suffix(".h5")).counts()["done"] == 4
    probe = look()
    assert probe.hello.cores == probe.parent_cores
