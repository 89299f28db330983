"""What digests and checksums cost, against cells of 100 ms.

- A write: one `Writer.write` of as many cells as a report of a quarter second holds (1, 3), through
  the serial driver, without fsync, which is the same for both: once as it is, and once into a file
  without checksums and without looking at the status before.  The difference, per cell, is the
  cost.
- Once per file: its digest is made (`seal`), all of it is checked as by `eval` (`refuse`), and a
  reader checks the layout (`state`) and its finished cells (`read` with and without).

The file is a plane of 51x51, all of whose cells are finished, with two directions of 850,000
numbers, as of a ResNet-56.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import harness  # first: it imports MPI before HDF5
import numpy as np

from lsengine import store
from lsengine.store import CellResults, Layout, Writer, checksums, damage, digest
from lsengine.surface.grid import make_grid

POINTS = 51
CELL_S = 0.1
QUANTITIES = [
    f"{split}_{kind}" for split in ("train", "test") for kind in ("loss", "loss_se", "accuracy")
]
PER_WRITE = (1, 3)


def main() -> None:
    """Measure in turn, again and again, and print medians."""
    options = harness.arguments(__doc__.partition("\n")[0]).parse_args()
    load, repeats = os.getloadavg()[0], 20 if options.quick else 400
    results: list[dict[str, Any]] = []
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole, bare = _lay_out(folder)
        for count in PER_WRITE:
            results.append(_writes(whole, bare, count, repeats))
            row = results[-1]
            share = row["difference_s"] / count / CELL_S
            rows.append(
                [f"write of {count}", *(harness.shown(row[k]) for k in ("with", "without"))]
            )
            rows[-1].append(f"{1e3 * row['difference_s'] / count:.3g} ms, {share:.2%}")
        for what, call in _once(whole, bare).items():
            figures = harness.summary([_timed(call) for _ in range(max(3, repeats // 20))])
            results.append({"what": what, "seconds": figures})
            rows.append([what, harness.shown(figures), "", ""])
    header = ["what", "CPU seconds", "without", f"per cell, of {CELL_S:g} s"]
    facts = harness.context(load, points=POINTS, repeats=repeats)
    record = {"context": facts, "results": results}
    harness.print_report("bench_checksums", header, rows, [], record)


def _lay_out(folder: Path) -> tuple[Path, Path]:
    """Return a finished file, and a copy without checksums."""
    rng = np.random.default_rng(0)
    weights = {f"layer{n}": rng.normal(size=(64, 64, 9)).astype(np.float32) for n in range(23)}
    layout = Layout(
        grid=make_grid((-1, 1, POINTS), (-1, 1, POINTS)),
        quantities=QUANTITIES,
        attributes={"writing": "gather"},
        directions={"alpha": weights, "beta": weights},
    )
    whole, bare = folder / "whole.h5", folder / "bare.h5"
    store.create(whole, layout)
    writer = Writer(whole)
    writer.write(_results(range(POINTS**2)))
    writer.close()
    shutil.copy(whole, bare)
    with h5py.File(bare, "r+") as file:
        digest.remove(file)
        del file[checksums.NAME]
    return whole, bare


def _results(cells: range) -> CellResults:
    values = np.random.default_rng(1).random(len(cells)).tolist()
    return CellResults(
        cells=[*cells],
        values=dict.fromkeys(QUANTITIES, values),
        wall_s=[CELL_S] * len(cells),
        finished=[1e9] * len(cells),
    )


def _writes(whole: Path, bare: Path, count: int, repeats: int) -> dict[str, Any]:
    """Time writes of some cells with and without checksums, by turns."""
    samples: dict[str, list[float]] = {"with": [], "without": []}
    writers = {"with": Writer(whole), "without": Writer(bare)}
    with mock.patch.object(os, "fsync"):
        for turn in range(repeats):
            found = _results(range(turn * 5 % 2000, turn * 5 % 2000 + count))
            for kind, writer in writers.items():
                is_whole = kind == "with"
                with nullcontext() if is_whole else mock.patch.object(Writer, "_unmark", _nothing):
                    samples[kind].append(_timed(partial(writer.write, found)))
    for writer in writers.values():
        writer.close()
    figures = {kind: harness.summary(seconds) for kind, seconds in samples.items()}
    difference = figures["with"]["median"] - figures["without"]["median"]
    return {"cells": count, **figures, "difference_s": difference}


def _once(whole: Path, bare: Path) -> dict[str, Callable[[], object]]:
    """Return what is done once per file, by what it is; nothing remembered."""

    def afresh(call: Callable[[Path], object], path: Path = whole) -> Callable[[], object]:
        def run() -> object:
            path.touch()  # whatever this process remembers of the file is of another time
            return call(path)

        return run

    return {
        "seal": afresh(digest.seal),
        "refuse": afresh(damage.refuse),
        "state": afresh(digest.state),
        "read": afresh(store.read),
        "read without checksums": afresh(store.read, bare),
    }


def _nothing(*_: object) -> None:
    """Stand in for a look at the status before."""


def _timed(call: Callable[[], object]) -> float:
    """Return seconds of the processor, which a busy machine changes less than those of the wall."""
    start = time.process_time()
    call()
    return time.process_time() - start


if __name__ == "__main__":
    main()
