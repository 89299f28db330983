"""Threads of a job: what it says, what its file has, what suits the work."""

from __future__ import annotations

import pytest
import torch

from lsengine import job as jobs
from lsengine.cores import Threads
from lsengine.engine import prepare
from lsengine.engine.prepare import threads

SHARE, CPU = Threads(2, "2 cores"), torch.device("cpu")


@pytest.fixture(autouse=True)
def _as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("asked", "settled", "found"),
    [
        (3, 0, (3, "as the job says")),
        (3, 2, (3, "as the job says")),
        ("auto", 2, (2, "2 cores")),
        ("auto", 1, (1, "as the surface has it")),
        ("auto", 4, (1, "a network this small gains little by more")),
        ("auto", 0, (1, "a network this small gains little by more")),
    ],
)
def test_the_job_comes_first_then_the_surface_then_the_work(make_job, asked, settled, found):
    """A surface's number is kept where there are as many cores, so that last bits stay."""
    job = jobs.load(make_job(threads=asked), command="eval")
    chosen = threads.choose(job, prepare.load(job), CPU, SHARE, settled)
    assert chosen == Threads(*found)
    assert torch.get_num_threads() == chosen.count


def test_beside_a_card_threads_are_the_share(make_job):
    """They only read data there."""
    job = jobs.load(make_job(threads="auto"), command="eval")
    assert threads.choose(job, prepare.load(job), torch.device("cuda"), SHARE) == SHARE


def test_a_network_that_fails_is_left_to_those_who_say_so(make_job, monkeypatch):
    """The trial is not the place for its message."""
    job = jobs.load(make_job(threads="auto"), command="eval")
    monkeypatch.setattr(threads, "use_of", lambda *_: 1 / 0)
    assert threads.choose(job, prepare.load(job), CPU, SHARE) == SHARE
