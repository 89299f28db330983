"""A program that writes cell after cell and reports each, until the doctor kills it."""

from __future__ import annotations

import sys
from pathlib import Path

from lsengine.doctor import file_system
from lsengine.store import Writer


def main(path: Path) -> None:
    """Write the cells of a trial in order; one line on standard output after each."""
    writer = Writer(path)
    for cell in range(file_system.TRIAL_CELLS):
        file_system.write(writer, cell, 0)
        print(cell, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
