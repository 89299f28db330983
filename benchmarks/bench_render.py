"""How long a picture of a 51 x 51 surface takes from a cold start, and how large a page is.

Each picture is one process of the command `lsengine render`, as a user starts it, on a surface
file written beforehand.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import harness
import numpy as np

from lsengine import store
from lsengine.store import CellResults, Layout
from lsengine.surface.grid import make_grid

PICTURES = {  # name: options, extension, target in seconds
    "contour": (["--as", "contour"], "png", 2.0),
    "filled": (["--as", "filled"], "png", 2.0),
    "heatmap": (["--as", "heatmap"], "png", 2.0),
    "surface": (["--as", "surface"], "png", 2.0),
    "filled, pdf": (["--as", "filled", "--style", "paper"], "pdf", 2.0),
    "lit": (["--as", "surface", "--style", "lit"], "png", 4.0),
    "html": (["--as", "html"], "html", 4.0),
}


def main() -> None:
    """Print a row for every kind of picture."""
    parser = harness.arguments(__doc__.partition("\n")[0])
    parser.add_argument("--points", type=int, default=51, help="grid points of an axis (51)")
    parser.add_argument("--repeats", type=int, default=7, help="of every picture (7)")
    options = parser.parse_args()
    if options.quick:
        options.repeats = 1
    load_before = os.getloadavg()[0]
    rows, figures = [], {}
    with tempfile.TemporaryDirectory() as folder:
        surface = Path(folder) / "surface.h5"
        write_surface(surface, options.points)
        wall: dict[str, list[float]] = {name: [] for name in PICTURES}
        cpu: dict[str, list[float]] = {name: [] for name in PICTURES}
        sizes = {}
        for _ in range(options.repeats):
            for name, (words, extension, _) in PICTURES.items():
                output = surface.with_suffix(f".{extension}")
                seconds, busy = timed([str(surface), *words, "--output", str(output)])
                wall[name].append(seconds)
                cpu[name].append(busy)
                sizes[name] = output.stat().st_size
    for name, (_, _, target) in PICTURES.items():
        both = {"wall_s": harness.summary(wall[name]), "cpu_s": harness.summary(cpu[name])}
        figures[name] = {**both, "bytes": sizes[name], "target_s": target}
        met = "met" if statistics.median(wall[name]) < target else "MISSED"
        shown = (harness.shown(both[key], ".2f") for key in ("wall_s", "cpu_s"))
        rows.append((name, *shown, f"{target:g}: {met}", f"{sizes[name] / 1e6:.2f}"))
    record = {
        "context": harness.context(load_before, **vars(options)),
        "pictures": figures,
    }
    notes = ["a target is met if the median of the repeats is below it"]
    header = ("picture", "wall s", "processor s", "target s", "MB")
    harness.print_report("bench_render", header, rows, notes, record)


def write_surface(path: Path, points: int) -> None:
    """Write a rugged surface over six decades, with the quantities of a classification."""
    x = np.linspace(-1, 1, points)
    a, b = np.meshgrid(x, x)
    r = np.hypot(a, b)
    loss = 0.02 * 10 ** (
        np.clip(4 * (r - 0.2), 0, None) * (1 + 0.3 * np.sin(9 * a) * np.cos(7 * b))
    )
    values = {
        "train_loss": loss,
        "train_accuracy": np.exp(-loss),
        "test_loss": loss + 0.1,
        "test_accuracy": 0.95 * np.exp(-loss),
    }
    grid = make_grid([-1, 1, points], [-1, 1, points])
    about = {"name": "benchmark", "writing": "gather"}
    store.create(path, Layout(grid=grid, quantities=list(values), attributes=about))
    cells = list(range(points * points))
    flat = {name: array.ravel().tolist() for name, array in values.items()}
    seconds = [0.0] * len(cells)
    writer = store.Writer(path)
    writer.write(CellResults(cells=cells, values=flat, wall_s=seconds, finished=seconds, worker=0))
    writer.close()


def timed(words: list[str]) -> tuple[float, float]:
    """Return wall and processor seconds of a command."""
    command = [str(Path(sys.executable).with_name("lsengine")), "render", *words]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    seconds = time.perf_counter() - begun
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, busy


if __name__ == "__main__":
    main()
