"""Reading surfaces, also while they are written."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from lsengine import store


def test_a_reader_sees_finished_cells_while_the_writer_holds_the_file(layout, tmp_path, results):
    """Another process reads what has been written, without locking trouble."""
    store.create(tmp_path / "s.h5", layout)
    writer = store.Writer(tmp_path / "s.h5")
    writer.write(results([0, 1, 2]))
    script = "import sys; from lsengine import store; print(store.read(sys.argv[1]).counts())"
    command = [sys.executable, "-c", script, str(tmp_path / "s.h5")]
    seen = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    writer.close()
    assert seen.stdout.strip() == "{'done': 3, 'missing': 9, 'failed': 0}"


def test_directions_come_back_as_they_were(layout, tmp_path):
    """Names with dots, repeated lengths and zero-dimensional parameters included."""
    store.create(tmp_path / "s.h5", layout)
    found = store.read_directions(tmp_path / "s.h5")
    for axis, parameters in layout.directions.items():
        for name, values in parameters.items():
            np.testing.assert_array_equal(found[axis][name], values)
