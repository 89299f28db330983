"""Writes per second into a surface file, in both ways of writing.

A write is one `Writer.write` of a batch of cells: their six quantities and four provenance
values, an fsync, their status, another fsync.  `parallel`: one to three ranks, each for itself
through the mpio driver.  `gather`: one process through the serial driver, which is what rank 0
does for everybody.  The file is a plane of 101x101; a batch is a piece of the coordinator's
visiting order, so its cells are neighbours only now and then.

The second column of rates has fsync replaced by nothing: what HDF5 and the system's cache cost.
The messages that bring results to rank 0 in `gather` are in `bench_dispatch`, not here.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any
from unittest import mock

import harness  # first: it imports MPI before HDF5
import numpy as np

from lsengine import store
from lsengine.store import CellResults, Layout
from lsengine.surface.grid import make_grid

POINTS = 101
BATCHES = (1, 8, 64)
RANKS = 3
QUANTITIES = [
    f"{split}_{kind}" for split in ("train", "test") for kind in ("loss", "loss_se", "accuracy")
]
Variant = tuple[str, int, int, bool]  # way of writing, ranks, cells per batch, fsync


def main() -> None:
    """Measure under mpirun where h5py can write in parallel, else alone."""
    parser = harness.arguments(__doc__.partition("\n")[0])
    parser.add_argument("--folder", default=None, help="where to write; default: a temporary one")
    parser.add_argument("--rank", action="store_true", help="be one of the ranks (internal)")
    options = parser.parse_args()
    span_s, repeats = (0.05, 2) if options.quick else (0.3, 9)
    if options.rank:
        _be_rank(Path(options.folder), span_s, repeats)
        return
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        kind = harness.file_system(Path(folder))
        if store.has_mpi():
            flags = ["--rank", "--folder", folder, *(["--quick"] if options.quick else [])]
            results = harness.launch(__file__, RANKS, *flags)
        else:
            results = _alone(Path(folder), span_s, repeats)
    facts = harness.context(
        load, file_system=kind, points=POINTS, quantities=QUANTITIES, span_s=span_s
    )
    header = ["writing", "ranks", "cells per write", "writes/s", "cells/s"]
    header += ["writes/s, no fsync", "cells/s, no fsync", "share of fsync"]
    notes = [
        f"File system: {kind}.  Rates are of all ranks together, over spans of {span_s} s each.",
        "Share of fsync: of the time of a write, from the two medians.",
    ]
    record = {"context": facts, "results": results}
    harness.print_report("bench_write", header, _rows(results), notes, record)


def _rows(results: list[dict[str, Any]]) -> list[list[str]]:
    rows = []
    by = {(r["writing"], r["ranks"], r["cells"], r["fsync"]): r["writes_per_s"] for r in results}
    for (writing, ranks, cells, synced), rate in by.items():
        if synced:
            free = by[writing, ranks, cells, False]
            share = 1 - rate["median"] / free["median"]
            row = [writing, str(ranks), str(cells)]
            row += [harness.shown(f, ".0f", s) for f in (rate, free) for s in (1, cells)]
            rows.append([*row, f"{share:.0%}"])
    return rows


def _variants() -> list[Variant]:
    ways = [("gather", 1)]
    if store.has_mpi():
        ways += [("parallel", ranks) for ranks in range(1, RANKS + 1)]
    return [(way, n, cells, sync) for way, n in ways for cells in BATCHES for sync in (True, False)]


def _be_rank(folder: Path, span_s: float, repeats: int) -> None:
    """Run all variants in turn, again and again; rank 0 prints the results as JSON."""
    world, comm = harness.world(), harness.MPI.COMM_WORLD
    assert world is not None
    if world.rank == 0:
        _lay_out(folder)
    rates: dict[Variant, list[float]] = {variant: [] for variant in _variants()}
    for turn in range(repeats + 1):
        for variant, samples in rates.items():
            harness.meet(comm)
            own = 0.0
            if world.rank < variant[1]:
                alone = world.comm_self if variant[0] == "parallel" else None
                own = _rate(folder, variant, span_s, world.rank, alone)
            harness.meet(comm)
            together = comm.gather(own, root=0)
            if world.rank == 0 and turn:  # the first turn is for warming up
                samples.append(sum(together))
    if world.rank == 0:
        print(json.dumps(_results(rates)))


def _alone(folder: Path, span_s: float, repeats: int) -> list[dict[str, Any]]:
    _lay_out(folder)
    rates: dict[Variant, list[float]] = {variant: [] for variant in _variants()}
    for turn in range(repeats + 1):
        for variant, samples in rates.items():
            rate = _rate(folder, variant, span_s, 0, None)
            if turn:
                samples.append(rate)
    return _results(rates)


def _results(rates: dict[Variant, list[float]]) -> list[dict[str, Any]]:
    return [
        {
            "writing": writing,
            "ranks": ranks,
            "cells": cells,
            "fsync": synced,
            "writes_per_s": harness.summary(samples),
        }
        for (writing, ranks, cells, synced), samples in rates.items()
    ]


def _lay_out(folder: Path) -> None:
    grid = make_grid((-1, 1, POINTS), (-1, 1, POINTS))
    for way in ("gather", "parallel"):
        store.create(
            folder / f"{way}.h5",
            Layout(grid=grid, quantities=QUANTITIES, attributes={"writing": way}),
        )


def _rate(folder: Path, variant: Variant, span_s: float, rank: int, comm: Any) -> float:
    """Write batches for a while; return this process's writes per second."""
    way, ranks, cells, synced = variant
    batches = cycle(_batches(cells, rank, ranks))
    writer = store.Writer(folder / f"{way}.h5", comm)
    count = 0
    try:
        with contextlib.nullcontext() if synced else mock.patch.object(os, "fsync", _nothing):
            writer.write(next(batches))
            start = time.perf_counter()
            while (elapsed := time.perf_counter() - start) < span_s:
                writer.write(next(batches))
                count += 1
    finally:
        writer.close()
    return count / elapsed


def _batches(cells: int, rank: int, ranks: int) -> Iterator[CellResults]:
    """Yield this rank's pieces of the visiting order, shuffled, with made-up values."""
    order = make_grid((-1, 1, POINTS), (-1, 1, POINTS)).visiting_order()
    rng = np.random.default_rng(0)
    starts = rng.permutation(len(order) // cells)[rank::ranks][:100] * cells
    for first in starts.tolist():
        chosen = order[first : first + cells].tolist()
        yield CellResults(
            cells=chosen,
            values={name: rng.random(cells).tolist() for name in QUANTITIES},
            wall_s=[0.1] * cells,
            finished=[time.time()] * cells,
            worker=rank,
        )


def _nothing(descriptor: int) -> None:
    """Stand in for fsync."""


if __name__ == "__main__":
    main()
