"""One small surface by one thread, all cores' threads, what `auto` takes, and several workers.

Whole commands, start included: their wall and processor time, and the time that the cells took.
``OMP_NUM_THREADS`` is unset, but where it is named.
"""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import harness  # first: it imports MPI before HDF5
import torch
import yaml

from lsengine import cores
from lsengine.cores import VARIABLES
from lsengine.job.schema import ModelSpec
from lsengine.models import build

NETWORKS: dict[str, dict[str, Any]] = {
    "mlp": {"arch": "mlp", "args": {"hidden": [64, 64]}},
    "resnet20": {"arch": "resnet20", "args": {"width": 4}},
}
_DONE = re.compile(r"cells are done; ([0-9.]+) s")


def main() -> None:
    """Print a row for every network and way to start."""
    options = harness.arguments(__doc__.partition("\n")[0]).parse_args()
    points, repeats = (3, 1) if options.quick else (11, 5)
    count = max(2, cores.count())
    every = {"one thread": ["--set", "threads=1"], "all threads": ["--set", f"threads={count}"]}
    every |= {
        "auto": [],
        "auto, OMP_NUM_THREADS=1": [],
        f"{count} workers": ["--workers", f"{count}"],
    }
    if options.quick:
        every = {"auto": [], "all threads": every["all threads"]}
    load = os.getloadavg()[0]
    rows, results = [], []
    with tempfile.TemporaryDirectory() as folder:
        for name in list(NETWORKS)[: 1 if options.quick else None]:
            job = _job(Path(folder), name, points)
            found: dict[str, list[tuple[float, ...]]] = {way: [] for way in every}
            for _ in range(repeats):
                for way, words in every.items():
                    found[way].append(_measured(job, words, one="OMP" in way))
            for way, samples in found.items():
                wall, cpu, cells = (
                    harness.summary(column) for column in zip(*samples, strict=True)
                )
                result = {
                    "network": name,
                    "way": way,
                    "wall_s": wall,
                    "cpu_s": cpu,
                    "cells_s": cells,
                }
                results.append(result)
                rows.append([name, way, *(harness.shown(figure) for figure in (wall, cpu, cells))])
    header = ["network", "way", "wall, s", "processor, s", "cells, s"]
    notes = [
        f"{points * points} cells of 1,797 digits. Beside other work processor time says more."
    ]
    record = {"context": harness.context(load, cells=points * points), "results": results}
    harness.print_report("bench_threads", header, rows, notes, record)


def _job(folder: Path, name: str, points: int) -> Path:
    torch.manual_seed(0)
    spec = ModelSpec(**NETWORKS[name], checkpoint="x")
    model = build(spec, channels=1, classes=10, size=(8, 8), job_folder=folder)
    torch.save(model.state_dict(), folder / f"{name}.pt")
    axis = [-1, 1, points]
    content = {
        "model": {**NETWORKS[name], "checkpoint": f"{name}.pt"},
        "data": {"dataset": "digits"},
        "directions": {
            "alpha": {"kind": "random", "seed": 1},
            "beta": {"kind": "random", "seed": 2},
        },
        "grid": {"alpha": axis, "beta": axis},
        "device": "cpu",
        "output": f"{name}.h5",
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def _measured(job: Path, words: list[str], *, one: bool) -> tuple[float, float, float]:
    """Return seconds of wall and processor time of a command, and those of its cells."""
    job.with_suffix(".h5").unlink(missing_ok=True)
    kept = {name: text for name, text in os.environ.items() if name not in VARIABLES}
    path = os.pathsep.join(filter(None, [str(harness.ROOT), os.environ.get("PYTHONPATH")]))
    env = {**kept, "PYTHONPATH": path, **({"OMP_NUM_THREADS": "1"} if one else {})}
    start, before = time.perf_counter(), _cpu()
    command = [sys.executable, "-m", "lsengine", "eval", str(job), *words, "--progress", "none"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    wall, found = time.perf_counter() - start, _DONE.search(done.stderr)
    assert found is not None, done.stderr
    return wall, _cpu() - before, float(found[1])


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
