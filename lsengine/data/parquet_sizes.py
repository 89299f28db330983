"""How many numbers a file of Parquet has, by what it says, before it is read.

PyArrow ends the process over a damaged description of a column.  So another process looks first.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

_WAIT_S = 300  # until the file system has answered
_SCRIPT = """
import json, sys
import pyarrow.parquet

about = pyarrow.parquet.read_metadata(sys.argv[1])
groups = [about.row_group(i) for i in range(about.num_row_groups)]
if any(group.num_columns != about.num_columns for group in groups):
    sys.exit("some of its rows lack columns")
chunks = [group.column(i) for group in groups for i in range(about.num_columns)]
print(json.dumps([about.num_rows, [[c.path_in_schema, c.num_values] for c in chunks]]))
"""


def numbers(path: Path, columns: Collection[str]) -> int:
    """Return how many numbers the columns have together, or how many rows if these are more.

    Raises:
        ValueError: If what the file says of itself is damaged.
    """
    # PyArrow speaks of C++ when it crashes; the last line says what is wrong.
    words = [sys.executable, "-P", "-c", _SCRIPT, str(path.absolute())]
    try:
        ended = subprocess.run(words, capture_output=True, timeout=_WAIT_S, check=False)
    except subprocess.TimeoutExpired:
        raise ValueError(f"it could not be read in {_WAIT_S} s") from None
    if ended.returncode:
        said = ended.stderr.decode(errors="replace").strip().splitlines()
        raise ValueError(f"its descriptions of columns are damaged: {said[-1] if said else ''}")
    rows, chunks = json.loads(ended.stdout)
    if rows < 0 or any(count < 0 for _, count in chunks):
        raise ValueError("it has a negative number of rows")
    counted = sum(count for name, count in chunks if name.partition(".")[0] in columns)
    return int(max(rows, counted))
