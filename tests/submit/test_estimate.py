"""What surfaces will cost, by their own cells or by a probe's."""

from __future__ import annotations

import os

import pytest

from lsengine import submit
from lsengine.cli import main
from lsengine.engine import Options, evaluate
from lsengine.errors import Stopped, UsageError
from lsengine.submit import SubmitOptions, estimate
from tests.support.scripts import job_and_launch


def test_a_probe_that_is_interrupted_submits_nothing(make_job, monkeypatch):
    """Ctrl-C in a probe cell is a stop of the command, not a cell that takes too long."""

    def interrupted(*arguments, **more):
        raise Stopped("stopped by SIGINT")

    monkeypatch.setattr("lsengine.engine.evaluate_found", interrupted)
    for launch in ({}, {"time": "01:00:00"}):
        with pytest.raises(Stopped, match="SIGINT"):
            submit.plan([make_job(launch=launch)], SubmitOptions(probe=2))


def test_the_end_of_a_probe_is_no_signal(make_job, monkeypatch):
    """A round that is over stops the probe by itself: a signal might come when nobody listens."""

    def sends_no_signal(*arguments):
        raise AssertionError("a signal would end a process that does not listen any more")

    monkeypatch.setattr(os, "kill", sends_no_signal)
    slow = {"arch": "testnets:Slow", "args": {"seconds": 0.4}, "checkpoint": "centre.pt"}
    job = make_job(model=slow, launch={"time": "00:00:11", "signal_s": 10})
    with pytest.raises(UsageError, match="takes more than 1 s"):
        estimate.of_probe(*job_and_launch(job, 1))


def test_a_cell_too_long_for_a_round_is_refused_unasked(make_job):
    """Where a job has a time limit and wants no GPU, cells are probed before it is submitted."""
    slow = {"arch": "testnets:Slow", "args": {"seconds": 0.5}, "checkpoint": "centre.pt"}
    job = make_job(model=slow, launch={"time": "00:00:31", "signal_s": 30})
    with pytest.raises(UsageError, match=r"a cell takes more than 1 s, but a round has only 1 s"):
        submit.plan([job], SubmitOptions())


def test_a_probe_measures_cells_and_leaves_nothing(make_job, tmp_path, capsys):
    """Three cells of six batches of 20 ms: their time, the sum for all, and how many rounds."""
    slow = {"arch": "testnets:Slow", "args": {"seconds": 0.02}, "checkpoint": "centre.pt"}
    job = make_job(model=slow, launch={"time": "00:10:00"})
    before = sorted(tmp_path.iterdir())
    assert main(["submit", str(job), "--estimate", "--probe", "3"]) == 0
    printed, said = capsys.readouterr()
    assert printed == ""
    assert "(3 probe cells on this machine); 28 cells are" in said
    assert "CPU-hours" in said
    assert "1 round(s) of 00:10:00" in said
    assert sorted(p for p in tmp_path.iterdir() if p.name != "__pycache__") == before
    cost = estimate.of_probe(*job_and_launch(job, 2))
    assert 0.12 <= cost.seconds < 2
    assert cost.missing == 28


def test_a_surface_that_has_begun_needs_no_probe(make_job, capsys):
    """Its own cells say what the rest will take."""
    job = make_job(launch={"time": "00:10:00"})
    assert evaluate([job], Options(progress="none", cell_limit=5), world=None) == 0
    assert main(["submit", str(job), "--dry-run"]) == 0
    assert "(job.h5 itself); 23 cells are" in capsys.readouterr().err


def test_of_a_finished_surface_it_is_said_that_nothing_is_left(make_job, capsys):
    """A submission is a slip then, mostly; no rounds are counted, and nothing is refused."""
    job = make_job(launch={"time": "00:10:00"})
    assert evaluate([job], Options(progress="none"), world=None) == 0
    assert main(["submit", str(job), "--dry-run"]) == 0
    said = capsys.readouterr().err
    assert "all cells of job.h5 are done; the job will only check that they fit" in said
    assert "round(s)" not in said


def test_a_cell_longer_than_a_round_is_refused_with_both_numbers(make_job, tmp_path):
    """One that is measured, and one whose probe is cut off when the round would be over."""
    slow = {"arch": "testnets:Slow", "args": {"seconds": 0.4}, "checkpoint": "centre.pt"}
    job = make_job(model=slow, launch={"time": "00:00:11", "signal_s": 10})
    with pytest.raises(UsageError, match="takes more than 1 s, but a round has only 1 s"):
        submit.plan([job], SubmitOptions(probe=1))
    found, _, launch = job_and_launch(job, 1)
    cost = estimate.Cost(seconds=3.5, device="cpu", missing=28, source="a test")
    with pytest.raises(UsageError, match=r"takes 3\.5 s, but a round has only 1 s"):
        estimate.judged(found, launch, cost)


def test_a_cpu_says_nothing_about_gpus(make_job):
    """No GPU-hours are estimated from a processor's time, and nothing is refused for it."""
    found, _, launch = job_and_launch(
        make_job(launch={"gpus_per_node": 1, "time": "00:00:12", "signal_s": 10}), 1
    )
    said = estimate.judged(
        found, launch, estimate.Cost(seconds=99.0, device="cpu", missing=28, source="a test")
    )
    assert "no estimate of GPU-hours" in said
