"""What the coordinator says and hears, with many simulated ranks and without MPI's transport.

The coordinator and the workers' conversation are the real ones, in threads, over mailboxes
in memory; a cell takes its tenth of a second on paper only, so nothing here depends on time.
"""

from __future__ import annotations

import math
import pickle
import threading
from collections import deque
from pathlib import Path

import pytest

from lsengine import job as jobs
from lsengine.engine.messages import Plan, Report, WorkerInfo
from lsengine.engine.protocol.coordinator import Coordinator
from lsengine.engine.protocol.worker import work
from lsengine.ranks import StopRequest, World
from lsengine.store import CellResults
from tests.support.jobs import write_job

pytest.importorskip("mpi4py")
CELL_S = 0.1


class _Letter:
    def __init__(self, source, tag, text):
        self.source, self.tag, self._text = source, tag, text

    def recv(self):
        return pickle.loads(self._text)


class _Sent:
    def test(self):
        return True, None


class _Mailboxes:
    """One rank's view of ranks in memory; counts what it sends and receives."""

    def __init__(self, rank, boxes):
        self._rank, self._boxes = rank, boxes
        self.messages = self.size_of_all = 0

    def Get_rank(self):  # noqa: N802  MPI's name
        return self._rank

    def Get_size(self):  # noqa: N802  MPI's name
        return len(self._boxes)

    def isend(self, payload, dest, tag):
        text = pickle.dumps(payload)
        self._count(text)
        self._boxes[dest].append((self._rank, tag, text))
        return _Sent()

    def improbe(self, source, tag, status):
        if not self._boxes[self._rank]:
            return None
        status.source, status.tag, text = self._boxes[self._rank].popleft()
        self._count(text)
        return _Letter(status.source, status.tag, text)

    def _count(self, text):
        self.messages += 1
        self.size_of_all += len(text)


class _Workspace:
    """Evaluates nothing, and says that it took a tenth of a second per cell."""

    def __init__(self, assignment, tick, rank):
        self._tick, self._rank = tick, rank

    def info(self, host):
        return WorkerInfo(
            host=host,
            device_kind="cpu",
            threads=1,
            torch_version="none",
            sample_shape=(1,),
            precision="float32",
            forward="eager",
        )

    first_report = None

    def evaluator(self, plan):
        return self

    def run(self, cells, limit_s):
        self._tick()
        some = cells[: math.floor(limit_s / CELL_S) + 1]
        results = CellResults(cells=some, wall_s=[CELL_S] * len(some), worker=self._rank)
        return Report(results, CELL_S * len(some))


def _start(workers):
    """Start workers; return rank 0's world, its mailboxes and the workers' threads."""
    boxes = [deque() for _ in range(workers + 1)]
    comms = [_Mailboxes(rank, boxes) for rank in range(workers + 1)]
    threads = [
        threading.Thread(
            target=work,
            args=(World(comm, None, "none"), StopRequest()),
            kwargs={"make": _Workspace},
            daemon=True,
        )
        for comm in comms[1:]
    ]
    for thread in threads:
        thread.start()
    return World(comms[0], None, "none"), comms[0], threads


def _end(threads):
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)


def _run(job, workers, cells):
    """Return messages and bytes per cell of rank 0, and the cells that reached it."""
    world, comm, threads = _start(workers)
    coordinator, done = Coordinator(world, StopRequest()), []
    coordinator.assign_all(job)
    coordinator.first_info()
    comm.messages = comm.size_of_all = 0
    plan = Plan(path=Path("none.h5"), parallel=False, precision="float32", batch_size=1, digests={})
    coordinator.serve(plan, range(cells), lambda results: done.extend(results.cells))
    messages, size = comm.messages / cells, comm.size_of_all / cells
    coordinator.shut_down(0)
    _end(threads)
    return messages, size, done


@pytest.mark.parametrize("workers", [8, 32])
def test_messages_per_cell_do_not_grow_with_the_ranks(tmp_path, workers):
    """Cells of 100 ms: ten share a lease with four reports, so half a message per cell."""
    job = jobs.load(write_job(tmp_path), command="eval")
    messages, size, done = _run(job, workers, cells=100 * workers)
    assert sorted(done) == list(range(100 * workers))
    assert messages < 0.8
    assert size < 200
