"""Many ranks: how busy the workers are, and what the coordinator sends, receives and keeps.

Real ranks under mpirun, far more than there are cores: rank 0 runs lsengine's `Coordinator` and
the others its `work`, as `lsengine eval` does, but a cell is a sleep, so that ranks need no core of
their own, and nothing is written.  No rank imports torch.

- efficiency: cells x sleep / (workers x wall), from the first plan to the last result.  It
  includes the end, when workers that have finished wait for the last ones.
- in cells: the share of the workers' time that they spend in cells, however long those took; what
  is left is handing out and the end.  A sleep that ends late, for want of a core, counts in here
  and not against lsengine.
- messages per cell: all that rank 0 sends and receives while cells are evaluated.  It must depend
  on the length of a cell, and not grow with the number of ranks.
- at least 98 %: whether the efficiency, with everything in it, is what lsengine asks of itself for
  cells of 100 ms.
- bytes per cell: of the same messages, pickled.
- memory of rank 0: what it holds more at the end than before the first cell, per cell, and as a
  whole; and the whole process, as of each worker.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import harness  # first: it imports MPI before HDF5

from lsengine.engine.messages import Assignment, Plan, Report, WorkerInfo
from lsengine.engine.protocol import worker
from lsengine.engine.protocol.coordinator import Coordinator
from lsengine.job import load
from lsengine.ranks import Message, StopRequest, World
from lsengine.store import CellResults

JOB = Path(__file__).parents[1] / "jobs" / "demo.yaml"
WANTED = 0.98  # efficiency


class CountingWorld(World):
    """Counts messages and their bytes; rank 0's only."""

    sent = received = size_of_all = 0

    def send(self, payload: Any, *, to: int, tag: int) -> None:
        """Send, and count."""
        self.sent += 1
        self.size_of_all += len(pickle.dumps(payload))
        super().send(payload, to=to, tag=tag)

    def poll(self, *tags: int) -> Message | None:
        """Look for a message, and count it if there is one."""
        message = super().poll(*tags)
        if message is not None:
            self.received += 1
            self.size_of_all += len(pickle.dumps(message.payload))
        return message


def main() -> None:
    """Launch the ranks and print the report."""
    parser = harness.arguments(__doc__.partition("\n")[0])
    parser.add_argument("--rank", action="store_true", help="be one of the ranks (internal)")
    parser.add_argument("--ranks", type=int, nargs="+", default=[16, 32], metavar="N")
    parser.add_argument("--cells", type=int, default=200, metavar="N", help="per worker")
    parser.add_argument("--sleep", type=float, default=0.1, metavar="SECONDS", help="per cell")
    parser.add_argument("--limit", type=float, default=600, metavar="SECONDS", help="per launch")
    options = parser.parse_args()
    if options.quick:
        options.ranks, options.cells = [8], 20
    if options.rank:
        _be_rank(options.cells, options.sleep)
        return
    load_before = os.getloadavg()[0]
    if harness.MPI is None:
        sys.exit("bench_scale: needs mpi4py and an MPI library")
    flags = ["--rank", "--cells", str(options.cells), "--sleep", str(options.sleep)]
    results = [
        harness.launch(__file__, ranks, *flags, limit_s=options.limit) for ranks in options.ranks
    ]
    facts = harness.context(load_before, cell_s=options.sleep, cells_per_worker=options.cells)
    header = [
        "ranks",
        "cells",
        "wall, s",
        "efficiency",
        "in cells",
        "messages per cell",
        "bytes per cell",
    ]
    header += ["rank 0 grew by, MiB", "rank 0, MiB", "a worker, MiB", "CPU of rank 0"]
    notes = [
        "One run per row.  On a machine with fewer cores than ranks, what else runs there shows in",
        "the efficiency: a sleep ends late when no core is free.  See the load above.",
    ]
    header += [f"at least {WANTED:.0%}"]
    rows = [
        [*_row(result), "yes" if result["efficiency"] >= WANTED else "no"] for result in results
    ]
    record = {"context": facts, "results": results}
    harness.print_report("bench_scale", header, rows, notes, record)


def _row(result: dict[str, float]) -> list[str]:
    formats = ["d", "d", ".1f", ".4f", ".4f", ".3f", ".0f", ".2f", ".0f", ".0f", ".1%"]
    return [format(result[name], style) for name, style in zip(result, formats, strict=True)]


def _be_rank(cells: int, cell_s: float) -> None:
    """Take part; rank 0 prints the result as JSON."""
    base, comm = harness.world(), harness.MPI.COMM_WORLD
    assert base is not None
    world = CountingWorld(comm, base.comm_self, base.library)
    assert "torch" not in sys.modules
    job = load(JOB) if world.rank == 0 else None
    harness.meet(comm)
    if world.rank:
        _work(world, cell_s)
        harness.meet(comm)
        comm.gather(_own_bytes(), root=0)
        return
    result = _coordinate(world, job, cells * (world.size - 1), cell_s)
    harness.meet(comm)
    workers = comm.gather(None, root=0)[1:]
    result["worker_mib"] = sum(workers) / len(workers) / 2**20
    order = [
        "ranks",
        "cells",
        "wall_s",
        "efficiency",
        "in_cells",
        "messages_per_cell",
        "bytes_per_cell",
    ]
    order += ["grown_mib", "rank_0_mib", "worker_mib", "cpu_rank_0"]
    print(json.dumps({name: result[name] for name in order}))


def _coordinate(world: CountingWorld, job: Any, cells: int, cell_s: float) -> dict[str, float]:
    """Have cells slept through; return what it took."""
    done, busy_s = 0, 0.0

    def sink(results: CellResults) -> None:
        nonlocal done, busy_s
        done += len(results.cells)
        busy_s += sum(results.wall_s)

    coordinator = Coordinator(world, StopRequest())
    coordinator.assign_all(job)
    while (
        len(coordinator._placement.infos) < world.size - 1
    ):  # all are there: start-up is not the question
        coordinator._handle(coordinator._next())
    plan = Plan(path=Path("none.h5"), parallel=True, precision="float32", batch_size=1, digests={})
    world.sent = world.received = world.size_of_all = 0
    before, cpu_start, start = _own_bytes(), time.process_time(), time.perf_counter()
    coordinator.serve(plan, range(cells), sink)
    wall_s = time.perf_counter() - start
    cpu_s, after = time.process_time() - cpu_start, _own_bytes()
    messages, size = world.sent + world.received, world.size_of_all
    assert done == cells
    coordinator.shut_down(0)
    workers = world.size - 1
    return {
        "ranks": world.size,
        "cells": cells,
        "wall_s": wall_s,
        "efficiency": cells * cell_s / (workers * wall_s),
        "in_cells": busy_s / (workers * wall_s),
        "messages_per_cell": messages / cells,
        "bytes_per_cell": size / cells,
        "grown_mib": (after - before) / 2**20,
        "rank_0_mib": after / 2**20,
        "cpu_rank_0": cpu_s / wall_s,
    }


class _Sleeper:
    """Stands in for the evaluator: a cell is a sleep, and has no values."""

    first_report = None

    def __init__(self, tick: Callable[[], None], rank: int, cell_s: float) -> None:
        self._tick, self._rank, self._cell_s = tick, rank, cell_s

    def info(self, host: str) -> WorkerInfo:
        return WorkerInfo(
            host=host,
            device_kind="cpu",
            threads=1,
            torch_version="none",
            sample_shape=(1,),
            precision="float32",
            forward="eager",
        )

    def evaluator(self, plan: Plan) -> _Sleeper:
        """There is nothing to put anywhere."""
        return self

    def run(self, cells: Sequence[int], limit_s: float) -> Report:
        """Sleep through cells as the evaluator works through them."""
        results, begin = CellResults(worker=self._rank), time.monotonic()
        for index in cells:
            self._tick()
            start = time.monotonic()
            time.sleep(self._cell_s)
            results.cells.append(index)
            results.wall_s.append(time.monotonic() - start)
            results.finished.append(time.time())
            if time.monotonic() - begin > limit_s:
                break
        return Report(results, time.monotonic() - begin)


class _NoWriter:
    """Stands in for the worker's writer, so that chunks are as long as when workers write."""

    def __init__(self, path: Path, comm: Any) -> None:
        pass

    def write(self, results: CellResults) -> None:
        """Nothing has values."""

    def close(self) -> None:
        """Nothing is open."""


def _work(world: World, cell_s: float) -> None:
    """Take a worker's part: the real conversation about cells that are sleeps."""
    worker.Writer = _NoWriter  # type: ignore[attr-defined,assignment]

    def make(assignment: Assignment, tick: Callable[[], None], rank: int) -> Any:
        return _Sleeper(tick, rank, cell_s)

    worker.work(world, StopRequest(), make=make)


def _own_bytes() -> int:
    """Return the memory that this process alone uses: what is shared counts for none."""
    text = Path("/proc/self/smaps_rollup").read_text()
    lines = (line.split() for line in text.splitlines()[1:])
    return sum(int(line[1]) * 1024 for line in lines if line[0].startswith("Private_"))


if __name__ == "__main__":
    main()
