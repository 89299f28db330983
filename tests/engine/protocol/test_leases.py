"""Leases: every cell is handed out, comes back when it must, and counts once."""

from __future__ import annotations

import random

import pytest

from lsengine.engine.protocol.leases import Leases, chunk_size, report_interval


class Clock:
    """A clock that is set by hand."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        """Return the time."""
        return self.now


def test_cells_are_leased_in_order_and_end():
    """Three workers empty a queue in the order of visiting."""
    leases = Leases([5, 3, 8, 1], workers=3, chunk=2)
    assert leases.take(1) == [5, 3]
    assert leases.take(2) == [8, 1]
    assert leases.take(3) == []
    assert leases.finish(1, [5, 3], 1.0) == [5, 3]
    assert leases
    assert leases.finish(2, [8, 1], 1.0) == [8, 1]
    assert not leases


def test_what_is_not_finished_waits_again_at_the_head():
    """A lease given up in the middle goes to the next who asks, before all others."""
    leases = Leases(range(6), workers=2, chunk=3)
    assert leases.take(1) == [0, 1, 2]
    assert leases.finish(1, [0], 1.0) == [0]
    assert leases.take(2) == [1, 2, 3]


def test_a_worker_that_goes_on_keeps_its_rest():
    """A report in the middle of a lease frees nothing."""
    leases = Leases(range(4), workers=2, chunk=3)
    leases.take(1)
    leases.finish(1, [0], 1.0, goes_on=True)
    assert leases.take(2) == [3]
    assert leases.give_back(1) == [1, 2]
    assert leases.take(2) == [1, 2]


def test_silence_is_measured_against_patience_and_the_workers_own_pace():
    """A worker of ten seconds per cell may be silent for longer than one of a second."""
    clock = Clock()
    leases = Leases(range(10), workers=2, chunk=2, clock=clock)
    leases.take(1)
    leases.take(2)
    leases.finish(1, [0], 10.0, goes_on=True)
    leases.finish(2, [2], 0.1, goes_on=True)
    clock.now = 100.0
    assert leases.silent(60.0) == {2: 100.0}
    clock.now = 250.0
    assert set(leases.silent(60.0)) == {1, 2}


def test_a_worker_that_comes_back_counts_what_nobody_else_has_done():
    """Cells of a silent worker are finished once, by whoever is first."""
    leases = Leases(range(4), workers=2, chunk=4)
    leases.take(1)
    assert leases.give_back(1) == [0, 1, 2, 3]
    leases_of_2 = leases.take(2)
    assert leases_of_2 == [0, 1, 2, 3]
    assert leases.finish(2, [0, 1], 1.0, goes_on=True) == [0, 1]
    assert leases.finish(1, [0, 1, 2], 9.0) == [2]
    assert leases.finish(2, [2, 3], 1.0) == [3]
    assert not leases


@pytest.mark.parametrize("seed", range(20))
def test_every_cell_counts_exactly_once_whatever_happens(seed):
    """Workers report, give up, fall silent, come back and die at random."""
    rng = random.Random(seed)
    leases, counted = Leases(range(60), workers=4), []
    holds = {rank: [] for rank in range(1, 5)}
    while leases:
        rank = rng.choice(list(holds))
        if not holds[rank]:
            holds[rank] = leases.take(rank)
            continue
        deed = rng.random()
        if deed < 0.2:
            leases.give_back(rank)  # silent: it still works on what it holds
        elif deed < 0.3 and len(holds) > 1:
            leases.give_back(rank)
            del holds[rank]  # dead
        else:
            some = rng.randint(1, len(holds[rank]))
            finished, rest = holds[rank][:some], holds[rank][some:]
            goes_on = bool(rest) and rng.random() < 0.7
            counted += leases.finish(rank, finished, 0.01 * some, goes_on=goes_on)
            holds[rank] = rest if goes_on else []
    assert sorted(counted) == list(range(60))


def test_rank_0_itself_is_never_silent():
    """It asks, and while it evaluates it does not report."""
    clock = Clock()
    leases = Leases(range(10), workers=2, chunk=2, clock=clock)
    leases.take(0)
    leases.take(1)
    clock.now = 100.0
    assert set(leases.silent(60.0)) == {1}


def test_a_sign_of_life_keeps_a_lease_and_changes_nothing_else():
    """A report without cells: the worker is not silent, keeps its cells, its pace is unknown."""
    clock = Clock()
    leases = Leases(range(100), workers=2, clock=clock)
    held = leases.take(1)
    clock.now = 50.0
    assert leases.finish(1, [], 0.0, goes_on=True) == []
    clock.now = 100.0
    assert leases.silent(60.0) == {}
    assert leases.give_back(1) == held == [0]
    assert len(leases.take(1)) == 1  # as for one whose pace is unknown


@pytest.mark.parametrize(
    ("workers", "gathers", "expected"),
    [(10, False, 0.25), (1000, False, 1.0), (4000, False, 4.0), (10, True, 0.25), (100, True, 1.0)],
)
def test_rank_0_hears_no_more_than_it_can(workers, gathers, expected):
    """At most 1,000 reports a second reach it, 100 where it writes them; few workers wait 1/4 s."""
    assert report_interval(workers, gathers=gathers) == expected


def test_chunks_are_as_long_as_the_time_of_four_reports():
    """Cells of ten milliseconds: 100 with four reports a second, 400 with one."""
    for seconds, cells in ((0.25, 100), (1.0, 400)):
        leases = Leases(range(10**6), workers=10, report_s=seconds)
        leases.finish(1, leases.take(1), seconds=0.01)
        assert len(leases.take(1)) == cells


@pytest.mark.parametrize(
    ("remaining", "workers", "cell_s", "expected"),
    [
        (100, 4, 0.0, 1),  # nothing measured yet
        (100, 4, 10.0, 1),  # slow cells go one by one
        (1000, 4, 0.01, 25),  # a quarter of a second of work
        (16, 4, 0.001, 2),  # near the end, half of a fair share
        (1, 4, 0.001, 1),
    ],
)
def test_chunks_follow_measured_time_and_shrink_at_the_end(remaining, workers, cell_s, expected):
    """A chunk is about 0.25 s of work, and never more than half of a fair share."""
    assert chunk_size(remaining, workers, cell_s) == expected
