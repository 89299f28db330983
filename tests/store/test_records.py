"""Histories, histograms and spectra: whole, or refused in the words of their kind."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from lsengine import store
from lsengine.errors import EnvironmentUnfit, UsageError
from lsengine.surface.records import History
from tests.support.histories import make_history

READERS = {
    store.HISTORY_FORMAT: (store.read_history, "training history", "lsengine train"),
    store.WEIGHTS_FORMAT: (store.read_histograms, "histogram of weights", "lsengine histogram"),
    store.SPECTRUM_FORMAT: (store.read_spectrum, "spectrum", "lsengine spectrum"),
}


@pytest.fixture
def history():
    """One epoch of one parameter."""
    return History(
        columns={"epoch": np.array([0, 1]), "train_loss": np.array([2.0, 1.0])},
        parameters=("w",),
        layer_norms=np.ones((2, 1)),
        attributes={"name": "h", "epochs": 1},
    )


def test_a_history_replaces_the_older_and_what_a_killed_training_has_left(history, tmp_path):
    """Nothing but the file remains, and it reads back."""
    path = tmp_path / "history.h5"
    (tmp_path / ".history.h5.0123abcd.part.h5").touch()
    for _ in range(2):
        store.write_history(path, history)
    assert list(tmp_path.iterdir()) == [path]
    found = store.read_history(path)
    assert found.finished
    assert found.columns["train_loss"].tolist() == [2.0, 1.0]
    assert store.format_of(path) == store.HISTORY_FORMAT


def test_a_history_comes_back_from_its_file(tmp_path):
    """What is written is read, with its source."""
    path = tmp_path / "h.h5"
    store.write_history(path, make_history())
    found = store.read_history(path)
    np.testing.assert_array_equal(found.columns["train_loss"], make_history().columns["train_loss"])
    assert (found.source, found.name, found.finished) == (str(path), "small", True)


def test_a_history_that_cannot_be_written_is_the_environments_fault(history, tmp_path):
    """The folder has gone: one message, exit code 3."""
    with pytest.raises(EnvironmentUnfit, match=r"history\.h5: cannot be written"):
        store.write_history(tmp_path / "gone" / "history.h5", history)


@pytest.mark.parametrize(
    ("kind", "damage"),
    [
        (kind, damage)
        for kind in READERS
        for damage in ("missing", "text", "empty", "foreign", "newer")
        if (kind, damage) != (store.SPECTRUM_FORMAT, "empty")  # it may be without everything
    ],
)
def test_what_is_no_such_file_is_refused_in_its_words(tmp_path, kind, damage):
    """What was expected and which command writes it; never a traceback of HDF5's."""
    read, name, command = READERS[kind]
    path, newest = tmp_path / "x.h5", 2 if kind == store.HISTORY_FORMAT else 1
    says = {
        "missing": f'no such file; "{command}" writes one',
        "text": "not a readable HDF5 file",
        "empty": "is not there",
        "foreign": f"an HDF5 file, but not a {name} of lsengine's",
        "newer": f"is 9, this lsengine reads up to {newest}; install a newer lsengine",
    }[damage]
    if damage == "text":
        path.write_text("epoch,loss")
    elif damage != "missing":
        with h5py.File(path, "w") as file:
            file.attrs["format"] = "other" if damage == "foreign" else kind
            file.attrs["format_version"] = 9 if damage == "newer" else 1
    with pytest.raises(UsageError) as refusal:
        read(path)
    assert says in str(refusal.value)
