"""Checks of the output's file system: kind, room, the lock, and what a killed writer leaves."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lsengine import files, store
from lsengine.doctor.checks import Check, ok, problem, warning
from lsengine.doctor.launcher import without_launcher
from lsengine.doctor.probe import gib
from lsengine.errors import LsengineError
from lsengine.store import CellResults, Layout, lock
from lsengine.surface import DONE
from lsengine.surface.grid import Grid

_TRIAL_CELLS = 2000
_ENOUGH = 2**30
_LIMIT_S = 60.0
_IN_MEMORY = ("tmpfs", "ramfs")
_OVER_NETWORK = ("nfs", "cifs", "smb", "9p", "fuse.sshfs")


def existing(folder: Path) -> Path:
    """Return a folder, or the nearest one above it that exists: a run makes the rest."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if files.is_folder(path))


def space(folder: Path) -> Check:
    """Judge the file system by what it says of itself."""
    name = "disk"
    try:
        kind, usage = _kind_of(folder), os.statvfs(folder)
    except OSError as error:
        return problem(name, f"{folder}: {error.strerror}", "name another --output")
    free = usage.f_bavail * usage.f_frsize
    found = f"{folder}: {kind}, {gib(free)} free"
    if usage.f_files and not usage.f_favail:
        return problem(name, f"{found}, but no file more can be made", "remove files")
    if free < _ENOUGH:
        return warning(name, found, "a surface of a large network takes up to a GiB: make room")
    if kind in _IN_MEMORY:
        remedy = "it lies in memory and ends with this host: keep surfaces elsewhere"
        return warning(name, found, remedy)
    if kind.startswith(_OVER_NETWORK):
        remedy = "if many workers write slowly there, set writing: gather in the job"
        return ok(name, f"{found}; {remedy}")
    return ok(name, found)


def _kind_of(folder: Path) -> str:
    """Return the type of a folder's file system, such as ``ext4``, as the mounts tell it."""
    longest, kind = -1, "unknown kind"
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mounts").read_text().splitlines():
            point, this_kind = line.split()[1:3]
            point = point.replace("\\040", " ")
            if folder.resolve().is_relative_to(point) and len(point) >= longest:
                longest, kind = len(point), this_kind
    return kind


@contextlib.contextmanager
def trial(folder: Path, cells: int) -> Iterator[Path]:
    """Make a surface of some cells, locked as in a run; it is removed in the end.

    Raises:
        EnvironmentUnfit: If the folder is full, or cannot be written.
    """
    with _locked(folder) as path:
        _lay_out(path, cells)
        yield path


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[Path]:
    """Give the name of a file that is to be made, locked as in a run; it is removed in the end."""
    path = folder / f"lsengine-doctor-{uuid.uuid4().hex[:8]}.h5"
    try:
        with lock.held(path, lost=lambda: None):
            yield path
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _lay_out(path: Path, cells: int) -> None:
    grid = Grid({"alpha": np.arange(max(2, cells), dtype=np.float64)})
    layout = Layout(grid=grid, quantities=["train_loss"], attributes={"name": path.stem})
    store.create(path, layout)


def _value(cell: int) -> float:
    """Return the value of a cell of a trial: one that no other cell has."""
    return 1.5 * cell + 0.25


def write(writer: store.Writer, cell: int, rank: int) -> None:
    """Write one cell of a trial as a worker does."""
    values, now = {"train_loss": [_value(cell)]}, time.time()
    writer.write(
        CellResults(cells=[cell], values=values, wall_s=[0.0], finished=[now], worker=rank)
    )


def wrong(path: Path, cells: int) -> str:
    """Return what is wrong with the first cells of a trial that all should be done."""
    surface = store.read(path)
    done = surface.status[:cells] == DONE
    if not done.all():
        return f"cells {np.flatnonzero(~done)[:8].tolist()} are not there"
    expected = np.array([_value(cell) for cell in range(cells)])
    different = surface.quantities["train_loss"][:cells] != expected
    return f"cells {np.flatnonzero(different)[:8].tolist()} are wrong" if different.any() else ""


def survives(folder: Path) -> list[Check]:
    """Take the lock, have a child write cells, kill it, and read what it has left."""
    remedy = "name an --output where you may write and there is room"
    checks, name = list[Check](), "lock"
    try:
        with _locked(folder) as path:
            checks, name = [ok("lock", "can be made")], "writing"
            _lay_out(path, _TRIAL_CELLS)
            check = _killed(path)
    except LsengineError as error:
        return [*checks, problem(name, str(error).replace(f"{folder}/", ""), remedy)]
    return [ok("lock", "can be made, and removed"), check]


def _killed(path: Path) -> Check:
    name = "killed writer"
    command = [sys.executable, "-m", "lsengine.doctor.file_system", str(path)]
    plain, null, pipe = without_launcher(os.environ), subprocess.DEVNULL, subprocess.PIPE
    child = subprocess.Popen(command, env=plain, stdin=null, stdout=pipe, stderr=pipe)
    assert child.stdout is not None
    os.set_blocking(child.stdout.fileno(), False)
    end, output = time.monotonic() + _LIMIT_S, b""
    # 100 cells, or as many as a slow disk takes in the time.
    while output.count(b"\n") < 100 and child.poll() is None and time.monotonic() < end:
        output += child.stdout.read() or b""
        time.sleep(0.005)
    early = child.poll()
    child.kill()
    remaining_output, errors = child.communicate()
    acknowledged = (output + (remaining_output or b"")).count(b"\n")
    if early is not None or not acknowledged:
        last = (errors.decode(errors="replace").strip().splitlines() or ["no word from it"])[-1]
        return problem(name, f"wrote {acknowledged} cells: {last}", "see what the message says")
    try:
        bad = wrong(path, acknowledged)
    except LsengineError as error:
        bad = str(error)
    if bad:
        remedy = "do not write surfaces to this file system"
        return problem(name, f"was killed after {acknowledged} cells: {bad}", remedy)
    return ok(name, f"was killed after {acknowledged} cells; the file opens and has all of them")


def _write_until_killed(path: Path) -> None:
    """Write the cells of a trial in order; one line on standard output after each."""
    writer = store.Writer(path)
    for cell in range(_TRIAL_CELLS):
        write(writer, cell, 0)
        print(cell, flush=True)


if __name__ == "__main__":
    _write_until_killed(Path(sys.argv[1]))
