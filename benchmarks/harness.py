"""What the benchmarks share: robust summaries, where a number comes from, tables, launching.

A benchmark repeats all of its variants in turn, so that a busy moment of the machine hits all
of them alike, and reports medians with quartiles.  Standard output ends with one line of JSON
that has everything the table has, and more digits.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

with contextlib.suppress(ImportError, RuntimeError):
    importlib.import_module("mpi4py.MPI")  # before h5py: later it may load a second MPI library

import h5py

from lsengine import __version__
from lsengine.ranks import World

MPI: Any = sys.modules.get("mpi4py.MPI")
"""mpi4py's module, or None."""
ROOT = Path(__file__).parents[1]
QUIET = {  # what Open MPI needs as root and on few cores; others ignore it
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMP_NUM_THREADS": "1",
}
_PACKAGES = ("torch", "numpy", "h5py", "mpi4py")


def arguments(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="few short repeats: a smoke test")
    return parser


def summary(samples: Sequence[float]) -> dict[str, float]:
    """Return median, quartiles, and number of samples."""
    if len(samples) == 1:
        low, middle, high = (samples[0],) * 3
    else:
        low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
    return {"median": middle, "low": low, "high": high, "repeats": len(samples)}


def shown(figures: Mapping[str, float], pattern: str = ".3g", scale: float = 1.0) -> str:
    """Return ``median [lower quartile, upper quartile]``."""
    low, middle, high = (format(figures[k] * scale, pattern) for k in ("low", "median", "high"))
    return f"{middle} [{low}, {high}]"


def context(load_before: float, **more: Any) -> dict[str, Any]:
    """Return where the numbers come from: commit, versions, hardware, load, date.

    Args:
        load_before: `os.getloadavg` of one minute before the benchmark started.
        more: Sizes and whatever else a reader needs.
    """
    return {
        "commit": _commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "lsengine": __version__,
        "packages": {name: _version(name) for name in _PACKAGES},
        "mpi": _mpi_library(),
        "hdf5": h5py.version.hdf5_version,
        "h5py_mpi": bool(h5py.get_config().mpi),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_before": round(load_before, 2),
        "load_after": round(os.getloadavg()[0], 2),
        **more,
    }


def print_report(
    name: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    notes: Sequence[str],
    record: Mapping[str, Any],
) -> None:
    """Print a table for people and one line of JSON for programs.

    Args:
        name: Of the benchmark.
        header: Titles of the columns.
        rows: Cells of the table, as text.
        notes: Lines under the table.
        record: ``context`` and the numbers, of which six digits are kept.
    """
    facts = record["context"]
    versions = " ".join(f"{k}={v}" for k, v in facts["packages"].items())
    print(f"{name}: medians [quartiles] of interleaved repeats")
    print(f"  commit={facts['commit']} date={facts['date']} {versions} hdf5={facts['hdf5']}")
    print(
        f"  {facts['processor']}, {facts['cores']} cores, {facts['memory_gib']} GiB; load average "
        f"{facts['load_before']} before, {facts['load_after']} after\n"
    )
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    rule = ["-" * width for width in widths]
    for row in (header, rule, *rows):
        cells = (text.ljust(width) for text, width in zip(row, widths, strict=True))
        print(f"| {' | '.join(cells)} |")
    print()
    for note in notes:
        print(note)
    print(json.dumps(rounded({"benchmark": name, **record})), flush=True)


def launch(script: str, ranks: int, *arguments: str, limit_s: float = 150) -> Any:
    """Run a benchmark script under this environment's mpirun; return its last line, as JSON.

    Raises:
        RuntimeError: If the ranks fail; with what they printed.
    """
    done = subprocess.run(
        [*mpirun(ranks), sys.executable, script, *arguments],
        env={
            **os.environ,
            **QUIET,
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        },
        capture_output=True,
        text=True,
        timeout=limit_s,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{script}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def mpirun(ranks: int) -> list[str]:
    """Return the beginning of a command under the mpirun beside Python, else that of PATH."""
    launcher = Path(sys.executable).with_name("mpirun")
    return [str(launcher if launcher.exists() else "mpirun"), "-n", str(ranks)]


def world() -> World | None:
    """Return the ranks of this launch, also if it is one alone; None without MPI.

    From then on an exception on one rank ends all of them: the others would wait for ever.
    """
    if MPI is None:
        return None

    def abort(*error: Any) -> None:
        sys.__excepthook__(*error)
        sys.stderr.flush()
        MPI.COMM_WORLD.Abort(1)

    if MPI.COMM_WORLD.size > 1:
        sys.excepthook = abort
    return World(MPI.COMM_WORLD, MPI.COMM_SELF, _mpi_library())


def meet(comm: Any) -> None:
    """Wait for all ranks without keeping a core busy.  Collective."""
    request = comm.Ibarrier()
    while not request.Test():
        time.sleep(0.001)


def file_system(folder: Path) -> str:
    """Return the type of the file system that a folder is on, such as ``ext4``."""
    best, kind = "", "unknown"
    mounts = Path("/proc/mounts")
    for line in mounts.read_text().splitlines() if mounts.exists() else []:
        _, point, this_kind, *_ = line.split()
        if folder.resolve().is_relative_to(point) and len(point) >= len(best):
            best, kind = point, this_kind
    return kind


def rounded(value: Any) -> Any:
    """Return a value with six digits of every number in it."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value


def _commit() -> str:
    def git(*words: str) -> str:
        command = ["git", "-C", str(ROOT), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    try:
        commit = git("rev-parse", "--short", "HEAD")
    except OSError:
        return "unknown"
    changed = git("status", "--porcelain", "--untracked-files=no", "--", "lsengine")
    return (commit or "unknown") + (" (with changes)" if changed else "")


def _mpi_library() -> str:
    if MPI is None:
        return "none"
    return str(MPI.Get_library_version()).split("\n")[0].split(",")[0].strip("\x00 ")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    for line in information.read_text().splitlines() if information.exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
