"""One of the processes that `lsengine.api.team` starts: ``python -m lsengine.api.child``."""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from lsengine import log
from lsengine.errors import LsengineError, UsageError
from lsengine.ranks import World, end_at_once, meet


def main(folder: Path, name: str) -> None:
    """Do the task of a folder, and write how it ended."""
    end_at_once()
    sys.path[:] = json.loads((folder / "path.json").read_text())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    world, error = World.alone(), None
    try:
        world = meet()
        if world.rank == 0:
            (folder / "begun").touch()
        # And so HDF5, which may load another MPI library.
        work, arguments, is_quiet = _read(folder / f"task{name}.pkl")
        log.set_quiet(is_quiet)
        work(world, **arguments)
    except (LsengineError, KeyboardInterrupt) as raised:
        error = raised
    if world.rank == 0:
        part = folder / f"part{name}.pkl"
        part.write_bytes(pickle.dumps(error))
        part.replace(folder / f"outcome{name}.pkl")


def _read(path: Path) -> Any:
    try:
        return pickle.loads(path.read_bytes())
    except Exception as error:
        raise UsageError(
            "workers: another process cannot get network, data and loss: "
            f"{type(error).__name__}: {error}"
        ) from error


def _end_with_parent() -> None:
    """Ask for a clean end when the process has gone that holds the other side of the input."""
    # Not through `sys.stdin`, whose lock a process that ends could not get from this thread.
    if os.read(0, 1):  # else nobody does: a launcher gives it to one rank alone
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
