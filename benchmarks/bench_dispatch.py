"""Overhead of handing out chunks, with cells of one millisecond.

Real ranks under mpirun: rank 0 runs lsengine's `Coordinator`, the workers speak its protocol,
but a cell is a sleep of one millisecond, so that ranks need no core of their own and torch is
not imported.  Cells of a millisecond are far below anything real; the automatic chunk size is
made for them nevertheless.

- efficiency: cells x 1 ms / (workers x wall).  A sleep overshoots (the kernel wakes late), which
  counts against it.
- dispatch per chunk: the time a worker spends between two chunks, (workers x wall - time in
  cells) / chunks: its report, the coordinator's answer, and both sides' naps between looks at the
  mailbox.  The last chunk's wait for the others is part of it.
- CPU of rank 0 and of the workers: processor seconds per wall second, each.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import harness  # first: it imports MPI before HDF5

from lsengine.engine.messages import Hello, Plan, Report, WorkerInfo
from lsengine.engine.options import Options
from lsengine.engine.protocol.coordinator import Coordinator
from lsengine.job import load
from lsengine.ranks import StopRequest, Tag, World
from lsengine.store import CellResults

CELL_S = 0.001
JOB = harness.ROOT / "jobs" / "demo.yaml"
CELLS_PER_WORKER: dict[int | None, int] = {1: 100, 8: 200, None: 1000}
"""By cells per chunk; None is the automatic size, which needs a while to settle."""
WORKERS = (1, 2, 3)


def main() -> None:
    """Launch the ranks for each number of workers and print the report."""
    parser = harness.arguments(__doc__.partition("\n")[0])
    parser.add_argument("--rank", action="store_true", help="be one of the ranks (internal)")
    options = parser.parse_args()
    share, repeats = (5, 2) if options.quick else (1, 5)
    sizes = {chunk: cells // share for chunk, cells in CELLS_PER_WORKER.items()}
    if options.rank:
        _be_rank(sizes, repeats)
        return
    load = os.getloadavg()[0]
    if harness.MPI is None:
        sys.exit("bench_dispatch: needs mpi4py and an MPI library")
    flags = ["--rank", *(["--quick"] if options.quick else [])]
    results = []
    for workers in WORKERS:
        results += harness.launch(__file__, workers + 1, *flags)
    facts = harness.context(
        load, cell_s=CELL_S, cells_per_worker={c or "auto": n for c, n in sizes.items()}
    )
    header = ["workers", "chunk", "cells per chunk", "efficiency", "dispatch per chunk, ms"]
    header += ["a cell's sleep, ms", "CPU of rank 0", "CPU of a worker"]
    notes = [
        "A wait looks into the mailbox at once and then ever more rarely: that, not the work, is",
        "most of the dispatch time, and is what keeps waiting ranks off the CPU.  Chunk sizes are",
        "interleaved; each number of workers is a launch of its own.",
    ]
    record = {"context": facts, "results": results}
    rows = [_row(result) for result in results]
    harness.print_report("bench_dispatch", header, rows, notes, record)


def _row(result: dict[str, Any]) -> list[str]:
    return [
        str(result["workers"]),
        str(result["chunk"]),
        f"{result['cells_per_chunk']['median']:.3g}",
        harness.shown(result["efficiency"], ".3f"),
        harness.shown(result["dispatch_s"], ".2f", 1e3),
        harness.shown(result["slept_s"], ".3f", 1e3),
        harness.shown(result["cpu_rank_0"], ".1%"),
        harness.shown(result["cpu_worker"], ".1%"),
    ]


def _be_rank(sizes: dict[int | None, int], repeats: int) -> None:
    """Run all chunk sizes in turn, again and again; rank 0 prints the results as JSON."""
    world, comm = harness.world(), harness.MPI.COMM_WORLD
    assert world is not None
    samples: dict[Any, list[dict[str, float]]] = {chunk: [] for chunk in sizes}
    for turn in range(repeats + 1):
        for chunk, cells in sizes.items():
            harness.meet(comm)
            if world.rank:
                usage = _work(world)
                harness.meet(comm)
                comm.gather(usage, root=0)
                continue
            sample = _coordinate(world, chunk, cells * (world.size - 1))
            harness.meet(comm)
            usages = comm.gather(None, root=0)[1:]
            sample["cpu_worker"] = sum(usages) / len(usages)
            if turn:  # the first turn is for warming up
                samples[chunk].append(sample)
    if world.rank == 0:
        print(json.dumps([_result(world.size - 1, c, s) for c, s in samples.items()]))


def _result(workers: int, chunk: int | None, samples: list[dict[str, float]]) -> dict[str, Any]:
    figures = {name: harness.summary([s[name] for s in samples]) for name in samples[0]}
    return {"workers": workers, "chunk": chunk or "auto", **figures}


def _coordinate(world: World, chunk: int | None, cells: int) -> dict[str, float]:
    """Have cells slept through; return what it took."""
    busy_s, chunks = 0.0, 0

    def sink(results: CellResults) -> None:
        nonlocal busy_s, chunks
        busy_s += sum(results.wall_s)
        chunks += 1

    coordinator = Coordinator(world, StopRequest(), Options(chunk=chunk))
    coordinator.assign_all(load(JOB))  # these workers do not look at it
    coordinator.first_info()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "none.h5"
        plan = Plan(path=path, parallel=True, precision="float32", batch_size=1, digests={})
        cpu_start, start = time.process_time(), time.perf_counter()
        coordinator.serve(plan, range(cells), sink)
        wall_s = time.perf_counter() - start
        cpu_s = time.process_time() - cpu_start
    coordinator.shut_down(0)
    workers = world.size - 1
    return {
        "efficiency": cells * CELL_S / (workers * wall_s),
        "dispatch_s": (workers * wall_s - busy_s) / chunks,
        "cells_per_chunk": cells / chunks,
        "slept_s": busy_s / cells,
        "wall_s": wall_s,
        "cpu_rank_0": cpu_s / wall_s,
    }


def _work(world: World) -> float:
    """Speak a worker's side of the protocol; return its processor seconds per wall second."""
    world.send(
        Hello(host=world.host, pid=os.getpid(), cores=frozenset({0}), visible=None),
        to=0,
        tag=Tag.HELLO,
    )
    world.wait(Tag.JOB)
    world.send(
        WorkerInfo(
            host=world.host,
            device_kind="cpu",
            threads=1,
            torch_version="none",
            sample_shape=(1,),
            precision="float32",
            forward="eager",
        ),
        to=0,
        tag=Tag.LOADED,
    )
    world.wait(Tag.PLAN)
    cpu_start, start = time.process_time(), time.perf_counter()
    world.send(None, to=0, tag=Tag.READY)
    while (message := world.wait(Tag.WORK, Tag.STOP)).tag == Tag.WORK:
        world.send(_sleep_through(message.payload, world.rank), to=0, tag=Tag.READY)
    usage = (time.process_time() - cpu_start) / (time.perf_counter() - start)
    world.send(None, to=0, tag=Tag.BYE)
    world.flush()
    return usage


def _sleep_through(cells: Sequence[int], rank: int) -> Report:
    """Do what `Evaluator.run` does around a cell, with a sleep for the cell."""
    results = CellResults(worker=rank)
    begin = time.monotonic()
    for index in cells:
        start = time.monotonic()
        time.sleep(CELL_S)
        results.cells.append(index)
        results.wall_s.append(time.monotonic() - start)
        results.finished.append(time.time())
    return Report(results, time.monotonic() - begin)


if __name__ == "__main__":
    main()
