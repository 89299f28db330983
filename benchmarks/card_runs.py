"""Whole runs on one card: the same bytes for one process and three ranks, and after a stop.

And: the doctor, and how many cells a second several workers on the card do, for a tiny network,
whose steps leave it idle, and for one that fills it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import h5py
import harness
import launches
import numpy as np
import own_loop
import workloads
from own_loop import Figures, note, tell

Network = tuple[str, int, dict[str, object], int]
"""Name, images, arguments, and points of an axis."""
PROVENANCE = {"wall_s", "finished", "worker", "batch", "failure", "layout_digest"}


class Runs:
    """All runs of a device, each told when it is done."""

    def __init__(self, folder: Path, device: str, limit_s: float, *, small: bool) -> None:
        self._folder, self._device, self._small = folder, device, small
        self._end = time.monotonic() + limit_s
        self._can_launch = harness.MPI is not None
        self.failed = 0

    def all(self) -> None:
        """Tell everything for which there is time."""
        for step in (self._same_bytes, self._doctor, self._workers):
            try:
                for figure in step():
                    self.failed += figure.get("right") is False
                    tell(figure)
            except Exception as error:
                # One kind of runs must not cost the others.
                traceback.print_exc()
                tell({"figure": "run", "name": step.__name__.strip("_"), "right": False})
                tell(note(f"{type(error).__name__}: {str(error).splitlines()[0]}"))
                self.failed += 1
        if not self._can_launch:
            tell(note("Without mpi4py there were no runs of several ranks."))

    def _job(self, name: str, work: workloads.Workload, points: int, **more: object) -> Path:
        folder = self._folder / name
        folder.mkdir()
        return launches.make_job(folder, work, points, self._device, **more)

    def _same_bytes(self) -> Iterator[Figures]:
        images, points = (8, 2) if self._small else (4096, 6)
        work = workloads.make("resnet20", images)
        for precision in ("float32", "bfloat16"):
            if precision == "bfloat16" and (self._small or self._is_late("bfloat16")):
                continue
            job = self._job(precision, work, points, precision=precision)
            seen = launches.run(job, 1)
            one = values(job)
            yield self._figure(f"{precision}, one process", seen, True)
            forget_half(job)
            seen = launches.run(job, 1, again=True)
            yield self._figure(f"{precision}, resumed at half", seen, values(job) == one)
            if self._can_launch:
                seen = launches.run(job, 3)
                yield self._figure(f"{precision}, three ranks", seen, values(job) == one)

    def _figure(self, name: str, seen: dict[str, float], right: bool) -> Figures:
        found = f"{seen['first_cell_s']:.1f} s to the first cell, {seen['cells_per_s']:.1f} cells/s"
        figure: Figures = {"figure": "run", "name": name, "right": right}
        return figure | {"seconds": round(seen["whole_s"], 1), "found": found}

    def _doctor(self) -> Iterator[Figures]:
        ranks, is_right = 3 if self._can_launch else 1, True
        try:
            text = launches.launched(ranks, "doctor", "-o", str(self._folder))
        except RuntimeError as error:  # it has found a problem
            text, is_right = str(error), False
        yield {"figure": "doctor", "text": text}
        is_right &= f"{self._device}:0" in text or self._device == "cpu"
        yield {"figure": "run", "name": "doctor", "right": is_right}

    def _workers(self) -> Iterator[Figures]:
        if not self._can_launch:
            return
        networks: list[Network] = [
            ("mlp", 2048, {"hidden": [256, 256]}, 40),
            ("resnet20", 8192, {}, 8),
        ]
        if self._small:
            networks = [("mlp", 8, {}, 2)]
        for name, images, args, points in networks:
            work = workloads.make(name, images, args)
            job = self._job(f"workers-{name}", work, points, launch={"coordinator": "waits"})
            for workers in (2,) if self._small else (1, 2, 3):
                if self._is_late(f"{workers} workers of {name}"):
                    continue
                rate = launches.run(job, workers + 1)["cells_per_s"]
                figure: Figures = {"figure": "workers", "network": name, "workers": workers}
                yield figure | {"cells_per_s": harness.summary([rate])}

    def _is_late(self, what: str) -> bool:
        if is_late := time.monotonic() > self._end:
            tell(note(f"No time was left for {what}."))
        return is_late


def values(job: Path) -> dict[str, bytes]:
    """Return the bytes of every value dataset of a job's surface, directions included."""
    found: dict[str, bytes] = {}

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and name.rpartition("/")[2] not in PROVENANCE:
            found[name] = np.asarray(item[...]).tobytes()

    with h5py.File(job.with_name("speed.h5"), "r") as file:
        file.visititems(visit)
    return found


def forget_half(job: Path) -> None:
    """Make every second cell of a job's surface missing, with a value that is wrong."""
    with h5py.File(job.with_name("speed.h5"), "r+") as file:
        status = file["status"][...]
        missing = np.arange(status.size).reshape(status.shape) % 2 == 1
        status[missing] = 0
        file["status"][...] = status
        losses = file["train_loss"][...]
        losses[missing] = -1
        file["train_loss"][...] = losses


def main() -> int:
    """Print all figures as lines of JSON; return 1 if a run was wrong or failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--quick", action="store_true", help="few small cells: a smoke test")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds; the rest is left out")
    options = parser.parse_args()
    own_loop.device_of(options.device)
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(Path(folder), options.device, options.limit, small=options.quick)
        runs.all()
    return int(runs.failed > 0)


if __name__ == "__main__":
    sys.exit(main())
