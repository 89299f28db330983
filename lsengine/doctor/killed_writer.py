"""Writes cell after cell of a trial, and says so, until somebody kills it."""

from __future__ import annotations

import sys
from pathlib import Path

from lsengine.doctor import file_system
from lsengine.store import Writer


def main(path: Path) -> None:
    """Write the cells of a trial in order; one line on standard output after each."""
    writer = Writer(path)
    for cell in range(file_system.VICTIM_CELLS):
        file_system.write(writer, cell, 0)
        print(cell, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
