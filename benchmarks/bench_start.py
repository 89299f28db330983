"""How long commands take from a cold start, beside `import torch` alone.

    python benchmarks/bench_start.py [--before FOLDER]

The surface has 21 cells of a small network of a user's own, and takes a few tenths of a second:
all the rest is start and end.  With ``--before`` an older version, of which FOLDER has a checkout,
takes turns with this one.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import harness
import numpy as np
import torch
import yaml

OWN = """
from torch import nn


def make():
    return nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))
"""
CALL = """
import lsengine, torch
from torch.utils.data import TensorDataset
from own import make
data = TensorDataset(torch.randn(64, 64), torch.arange(64) % 10)
lsengine.evaluate(make(), data, grid={"alpha": [-1, 1, 21]}, threads=1)
"""
_TORCH, _LSENGINE = ["-c", "import torch"], ["-m", "lsengine"]
COMMANDS = {
    "import torch": _TORCH,
    "--help": [*_LSENGINE, "--help"],
    "status": [*_LSENGINE, "status", "there.h5"],
    "export": [*_LSENGINE, "export", "there.h5", "--to", "csv", "--output", "there.csv"],
    "compare": [*_LSENGINE, "compare", "there.h5"],
    "render": [*_LSENGINE, "render", "there.h5"],
    "models": [*_LSENGINE, "models"],
    "eval": [*_LSENGINE, "eval", "job.yaml"],
    "eval with 3 ranks": [*_LSENGINE, "eval", "job.yaml"],
    "evaluate from Python": ["call.py"],
    "spectrum": [*_LSENGINE, "spectrum", "job.yaml", "--trace", "4", "--density", "0"],
    "train an epoch": [*_LSENGINE, "train", "job.yaml"],
    "doctor": [*_LSENGINE, "doctor"],
}
RANKS = {"eval with 3 ranks": 3}


def main() -> None:
    """Print a row for every command."""
    parser = harness.arguments(__doc__.partition("\n")[0])
    parser.add_argument("--before", type=Path, metavar="FOLDER", help="of an older version")
    parser.add_argument("--repeats", type=int, default=7, help="of every command (7)")
    options = parser.parse_args()
    repeats = 1 if options.quick else options.repeats
    load_before = os.getloadavg()[0]
    versions = {"before": options.before, "now": harness.ROOT}
    versions = {name: folder.resolve() for name, folder in versions.items() if folder}
    samples: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_job(Path(folder))
        for _ in range(repeats):
            for command in COMMANDS:
                for version, package in versions.items():
                    seconds = timed(command, Path(folder), package)
                    samples.setdefault((command, version), []).append(seconds)
    header, rows, figures = ["command"], [], {}
    for version in versions:
        header += [f"{version}: wall s", f"{version}: processor s"]
    for command in COMMANDS:
        row = [command]
        for version in versions:
            both = zip(*samples[command, version], strict=True)
            wall, cpu = (harness.summary(values) for values in both)
            figures[f"{command}, {version}"] = {"wall_s": wall, "cpu_s": cpu}
            row += [harness.shown(wall, ".2f"), harness.shown(cpu, ".2f")]
        rows.append(row)
    record = {"context": harness.context(load_before, repeats=repeats), "commands": figures}
    notes = ["eval is wanted within 2 s of import torch, on a quiet machine"]
    harness.print_report("bench_start", header, rows, notes, record)


def write_job(folder: Path) -> None:
    """Write a job with its network, data and checkpoint, and evaluate it once as there.h5."""
    (folder / "own.py").write_text(OWN)
    (folder / "call.py").write_text(CALL)
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(256, 64)).astype(np.float32), np.arange(256) % 10
    np.savez(folder / "data.npz", x_train=x, y_train=y, x_test=x[:64], y_test=y[:64])
    names: dict[str, Any] = {}
    exec(OWN, names)
    torch.save(names["make"]().state_dict(), folder / "centre.pt")
    document = {
        "model": {"arch": "own:make", "checkpoint": "centre.pt"},
        "data": {"dataset": "arrays", "root": "data.npz"},
        "directions": {"alpha": {"kind": "random"}},
        "grid": {"alpha": [-1, 1, 21]},
        "device": "cpu",
        "threads": 1,
        "output": "job.h5",
        "train": {"output": "trained", "epochs": 1, "save_every": 1},
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(document))
    timed("eval", folder, harness.ROOT)
    (folder / "job.h5").rename(folder / "there.h5")


def timed(command: str, folder: Path, package: Path) -> tuple[float, float]:
    """Return wall and processor seconds of a command of a version of the package."""
    subprocess.run(["rm", "-rf", "job.h5", "job-spectrum.h5", "trained"], cwd=folder, check=True)
    launcher = harness.mpirun(RANKS[command]) if command in RANKS else []
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [*launcher, sys.executable, *COMMANDS[command]],
        env={**os.environ, **harness.QUIET, "PYTHONPATH": str(package)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    seconds, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode and command != "doctor":  # which may find that something is wrong
        raise RuntimeError(f"{command}: exit status {done.returncode}\n{done.stderr}")
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
