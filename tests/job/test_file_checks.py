"""Files and folders that a job names: what is in their place is said, and not waited for."""

from __future__ import annotations

import os

import pytest

from tests.job.conftest import problems_of

MODEL = {"arch": "resnet20"}


@pytest.fixture
def odd(tmp_path):
    """Write a FIFO, a link to a device and a link to itself."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "circle").symlink_to("circle")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("fifo", "is a FIFO; expected a file"),
        ("device", "is a device; expected a file"),
        ("circle", "cannot be looked at: Too many levels of symbolic links"),
        ("x" * 300, "cannot be looked at: File name too long"),
        ("x/" * 3000, "cannot be looked at: File name too long"),
        ("gone", "no such file: "),
    ],
)
@pytest.mark.parametrize("key", ["model.checkpoint", "directions.alpha.path", "data.root"])
def test_what_is_no_file(load, odd, key, name, says):
    """One line with the key."""
    content = {
        "model.checkpoint": {"model": {**MODEL, "checkpoint": name}},
        "directions.alpha.path": {"directions": {"alpha": {"kind": "file", "path": name}}},
        "data.root": {"data": {"dataset": "arrays", "root": name}},
    }[key]
    if key == "directions.alpha.path":
        content["grid"] = {"alpha": [-1, 1, 3]}
    (problem,) = problems_of(load, **content)
    assert problem.startswith(f"{key}: ")
    assert says in problem


@pytest.mark.parametrize(("name", "says"), [("fifo", "FIFO"), ("device", "device"), (".", "direc")])
def test_what_no_surface_replaces(load, odd, name, says):
    """The output is a file, or will be."""
    (problem,) = problems_of(load, output=name)
    assert problem.startswith("output: ")
    assert says in problem


@pytest.mark.parametrize("pattern", ["/**/*.nothing", "x" * 300 + "*", "**", "x" * 300])
def test_patterns_that_lead_nowhere(load, monkeypatch, pattern):
    """Also one for the whole disk ends with one line."""
    monkeypatch.setattr("lsengine.job.checkpoint_search._MOST_NAMES", 2000)
    (problem,) = problems_of(load, trajectory={"checkpoints": pattern})
    assert problem.startswith("trajectory.checkpoints: ")


def test_a_file_of_a_known_data_set_is_looked_for(load, tmp_path):
    """Before anything is loaded; a folder may be made when it is downloaded."""
    (problem,) = problems_of(load, data={"dataset": "cifar10", "root": "gone.npz"})
    assert problem.startswith("data.root: no such file: ")
    assert problem.endswith("gone.npz; expected an .npz file")
    load(data={"dataset": "cifar10", "root": "gone"})
    load(data={"dataset": "fashion_mnist"})  # in Debian's package
