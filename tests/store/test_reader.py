"""Reading surfaces, also while they are written."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import h5py
import numpy as np
import pytest

from lsengine import store
from lsengine.errors import SurfaceError
from tests.support.planes import partial_plane
from tests.support.surfaces import edited


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


def _with_state(layout, path, shape=(3, 3, 2, 2), values=None):
    state = [["conv.weight", list(shape), True], ["scale", [], True]]
    store.create(path, replace(layout, state_dict_layout=json.dumps(state)))
    if values is not None:
        with edited(path) as file:
            del file["directions/along_beta/conv.weight"]
            file["directions/along_beta/conv.weight"] = values
    return path


@pytest.mark.parametrize(
    "values",
    [
        np.zeros((2, 3, 2, 2), np.float32),
        np.zeros((5, 3, 3, 2, 2), np.float32),
        np.zeros((3, 3, 2, 2), np.int32),
        h5py.Empty("f4"),
        "x",
    ],
)
def test_directions_have_the_shapes_of_their_parameters(layout, tmp_path, values):
    """Another shape would be spread over the parameter, and move it elsewhere."""
    path = _with_state(layout, tmp_path / "s.h5", values=values)
    with pytest.raises(SurfaceError, match=r"s\.h5: damaged: .*along.*beta"):
        store.read_directions(path)


def test_directions_of_unknown_parameters_are_refused(layout, tmp_path):
    """The state dict says which there are."""
    path = _with_state(layout, tmp_path / "s.h5")
    assert set(store.read_directions(path)["beta"]) == {"conv.weight", "scale"}
    with edited(path) as file:
        file["directions/along_beta/more"] = np.zeros(3, np.float32)
    with pytest.raises(SurfaceError, match=r"along_beta/more .* of no parameter"):
        store.read_directions(path)


def test_a_strangers_name_is_one_line_without_what_a_terminal_obeys(tmp_path):
    """It is shown in tables, titles and legends, where another line would be another surface."""
    path = partial_plane(tmp_path / "plane.h5")
    with edited(path) as file:
        file.attrs["name"] = "a\nb\x1b[2J\u202ec"
    assert store.read(path).name == "a\\nb\\x1b[2J\\u202ec"
