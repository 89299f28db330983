"""Which cells a run evaluates, and how it ends."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lsengine import job as jobs
from lsengine import store
from lsengine.engine import Options, evaluate
from lsengine.engine.outcome import Inventory, Outcome
from lsengine.errors import CellsFailed, EnvironmentUnfit, Stopped, UsageError
from lsengine.store import CellResults, Layout
from lsengine.surface import DONE, FAILED, MISSING
from lsengine.surface.grid import make_grid
from tests.support.surfaces import edited

GRID = make_grid((-1, 1, 9), (-1, 1, 5))
CHECKPOINTS = [Path("epoch_000.pt"), Path("epoch_004.pt")]


@pytest.fixture
def inventory(make_job):
    """Take stock of a job that has not been started, with two checkpoints."""

    def take(options=None, shard=None, cells_per_pass=1, **changes):
        job = replace(jobs.load(make_job(**changes), command="eval"), shard=shard)
        return Inventory(job, options or Options(), GRID, CHECKPOINTS, cells_per_pass)

    return take


def test_a_new_surface_has_all_cells_before_it_and_then_the_checkpoints(inventory):
    """In the order of visiting; nothing is done and nothing has failed."""
    found = inventory()
    assert found.cells == [*GRID.visiting_order().tolist(), 45, 46]
    assert (found.count, found.done, found.failed, found.blocks) == (47, 0, set(), None)
    assert inventory(Options(trajectory_only=True)).cells == [45, 46]
    assert inventory(Options(cell_limit=3)).cells == found.cells[:3]


def test_cells_and_checkpoints_are_told_by_their_place(inventory):
    """A cell by its coordinates, a checkpoint by its name."""
    found = inventory()
    assert found.describe(0) == "alpha=-1 beta=-1"
    assert found.describe(46) == "epoch_004.pt"


def test_what_the_file_says_is_done_is_not_evaluated_again(make_job):
    """Of a file with fewer checkpoints than there are now, the new ones are missing."""
    job = jobs.load(make_job(), command="eval")
    store.create(job.output, Layout(grid=GRID, quantities=["train_loss"], attributes={}))
    with edited(job.output) as file:
        file["status"][0, :2] = DONE, FAILED
    found = Inventory(job, Options(), GRID, CHECKPOINTS, 1)
    assert (found.done, found.failed, len(found.cells)) == (1, {1}, 45)
    assert not {0, 1} & set(found.cells)
    assert 1 in Inventory(job, Options(retry_failed=True), GRID, CHECKPOINTS, 1).cells


@pytest.mark.parametrize("quantities", [["loss"], ["loss", "curvature"]])
def test_shards_are_parts_of_one_whole(inventory, quantities):
    """Every cell and checkpoint is in one shard, and blocks of curvature stay together."""
    shards = [inventory(shard=(k, 3), quantities=quantities) for k in (1, 2, 3)]
    whole = inventory(quantities=quantities)
    assert sorted(c for shard in shards for c in shard.cells) == list(range(47))
    for shard in shards:
        if whole.blocks is None:
            assert shard.count in (15, 16)
        else:
            own = {whole.blocks[c] for c in shard.cells}
            assert {c for c in range(47) if whole.blocks[c] in own} == set(shard.cells)


def test_blocks_are_coarse_cells_or_groups_and_each_checkpoint_is_one(inventory):
    """A checkpoint shares nothing with a cell or with another checkpoint."""
    curvature = inventory(quantities=["curvature"]).blocks
    assert curvature == [*GRID.warm_start_cells().tolist(), 45, 46]
    groups = inventory(cells_per_pass=4).blocks
    assert groups == [*GRID.pass_groups(4).tolist(), -2, -1]


@pytest.fixture
def outcome(inventory, make_job):
    """The outcome of a run of a job whose surface lacks the first row of nine cells."""

    def begin(failed=()):
        job = jobs.load(make_job(), command="eval")
        store.create(job.output, Layout(grid=GRID, quantities=["train_loss"], attributes={}))
        with edited(job.output) as file:
            file["status"][...] = DONE
            file["status"][0] = MISSING
            for cell in failed:
                file["status"][np.unravel_index(cell, GRID.shape)] = FAILED
                file["failure"][np.unravel_index(cell, GRID.shape)] = b"too far"
        return Outcome(job, Inventory(job, Options(retry_failed=True), GRID, [], 1))

    return begin


def test_a_run_that_is_stopped_says_how_far_the_surface_is(outcome):
    """Cells of earlier runs count, too, and failed ones do not."""
    run = outcome()
    run.count(CellResults(cells=[0, 1, 2], failures={2: "too far"}))
    stopped = run.stopped(Stopped("stopped by SIGTERM"))
    assert str(stopped).startswith("stopped by SIGTERM: 38 of 45 cells of ")
    assert str(stopped).endswith("are done; the same command goes on with the rest")


def test_a_stop_is_none_if_the_file_has_gone(outcome):
    """Once it is laid out the file has to be there, before that its folder."""
    run, stop, bug = (
        outcome(),
        Stopped("stopped by the loss of the surface's lock"),
        UsageError("x"),
    )
    surface = run._job.output
    surface.unlink()
    assert run.judged(stop) is stop
    surface.touch()
    run.begin("none")
    assert run.judged(stop) is stop
    surface.unlink()
    gone = run.judged(stop)
    assert isinstance(gone, EnvironmentUnfit)
    assert "is not there any more (stopped by the loss of the surface's lock)" in str(gone)
    assert run.judged(bug) is bug


def test_failed_cells_are_listed_by_their_place_and_reason(outcome):
    """Ten of them; one that is repaired counts as done."""
    run = outcome(failed=range(9, 21))
    assert run.code == CellsFailed.exit_code
    run.count(CellResults(cells=[9]))
    with pytest.raises(CellsFailed) as failed:
        run.conclude()
    first, *lines = str(failed.value).splitlines()
    assert "25 of 45 cells done, 11 failed; --retry-failed tries them again" in first
    assert lines[0] == "  cell 10 (alpha=-0.75 beta=-0.5): too far"
    assert len(lines) == 10
    assert lines[-1].endswith(" and 1 more")


def test_a_run_without_failures_ends_well(outcome):
    """When the last failed cell is repaired the code is that of success."""
    run = outcome(failed=[9])
    run.count(CellResults(cells=[*range(10)]))
    assert run.code == 0
    run.conclude()


@pytest.mark.parametrize(
    ("deed", "message"),
    [
        ("remove", "is not there any more .*bring it back"),
        ("replace", "is another file than the one this run has written"),
        ("lose", "28 cells that were written are not in the file"),
    ],
)
def test_a_file_that_has_gone_is_not_called_done(make_job, monkeypatch, deed, message):
    """Removed, replaced, or without what was written: exit 3 and one message, no success."""
    job = make_job()
    surface = job.with_suffix(".h5")
    conclude = store.Writer.close

    def close(writer):
        conclude(writer)
        if deed == "replace":
            shutil.copy(surface, surface.with_suffix(".copy"))
            surface.with_suffix(".copy").rename(surface)
        elif deed == "remove":
            surface.unlink()
        else:
            with edited(surface) as file:
                file["status"][...] = 0

    monkeypatch.setattr(store.Writer, "close", close)
    with pytest.raises(EnvironmentUnfit, match=message):
        evaluate([job], Options(progress="none"), world=None)
