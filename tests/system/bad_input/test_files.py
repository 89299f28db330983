"""Surface files that are missing, damaged, foreign or closed."""

from __future__ import annotations

import subprocess
import sys

import h5py
import numpy as np
import pytest

from tests.support.refusals import (
    as_empty,
    as_text,
    as_truncated,
    check_refusal,
    run_unprivileged,
)


def _foreign_hdf5(path):
    with h5py.File(path, "w") as file:
        file["train_loss"] = np.zeros((3, 4))


def _newer(path):
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = 99


def _without_status(path):
    with h5py.File(path, "r+") as file:
        del file["status"]


def _other_version(path):
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = "two"


def _bent(path):
    content = bytearray(path.read_bytes())
    content[8:2048] = bytes(2040)
    path.write_bytes(bytes(content))


SURFACES = [
    (as_text, "not a readable HDF5 file"),
    (as_empty, "not a readable HDF5 file"),
    (as_truncated, "not a readable HDF5 file"),
    (_bent, "damaged"),
    (_foreign_hdf5, "not a surface of lsengine's"),
    (_newer, ["format_version is 99", "install a newer lsengine"]),
    (_other_version, "damaged"),
    (_without_status, "damaged"),
]


@pytest.mark.parametrize(("damage", "says"), SURFACES, ids=lambda v: getattr(v, "__name__", ""))
@pytest.mark.parametrize("command", ["status", "render"])
def test_surfaces_that_cannot_be_read(refused, surface, command, damage, says):
    """Truncated, foreign, bent, or of a version to come; no picture is left behind."""
    damage(surface)
    refused(
        command, surface, code=4, says=["plane.h5: ", *([says] if isinstance(says, str) else says)]
    )


_ROT = """
import contextlib, io, os, pathlib, signal, sys
from lsengine import store
from lsengine.report import status
from lsengine.cli import main

path = pathlib.Path(sys.argv[1])
content = path.read_bytes()
for part in range(40):
    first = len(content) * part // 40 // 64 * 64
    path.write_bytes(content[:first] + bytes(64) + content[first + 64 :])
    if not (child := os.fork()):
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with contextlib.redirect_stdout(io.StringIO()):
            os._exit(main(["status", str(path)]))
    ended = os.waitpid(child, 0)[1]
    # HDF5 itself may crash or run in circles: nothing can be said then.
    if not os.WIFSIGNALED(ended) and os.WEXITSTATUS(ended) not in (0, 4):
        print("byte", first, "ends with code", os.WEXITSTATUS(ended))
"""


def test_rotten_surfaces_never_end_in_a_traceback(surface):
    """Wherever some bytes are lost, `status` works or says that the file is damaged."""
    command = [sys.executable, "-c", _ROT, str(surface)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("damage", "says"),
    [*SURFACES[:6], (None, "damaged: it does not say which job it is of")],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_outputs_that_are_something_else(job, refused, surface, damage, says):
    """What `eval` finds in the place of its surface stays as it is."""
    if damage is not None:
        damage(surface)
    refused("eval", job(output="plane.h5"), code=4, says=says)


def test_a_surface_that_is_not_there(refused, tmp_path):
    """No file, and a folder."""
    for command in ("status", "render"):
        says = 'gone.h5: no such file; "lsengine eval JOB" writes one'
        refused(command, tmp_path / "gone.h5", says=says)
        refused(command, tmp_path, says="is a directory; expected a surface file")


def test_a_job_in_place_of_its_surface(refused, job, tmp_path):
    """A picture of a job file names the surface that the job makes, or has made."""
    path = job()
    says = [f"{path}: is a job file; --as filled needs a surface", "job.h5, which", "lsengine eval"]
    refused("render", path, "--as", "filled", says=says)
    refused("compare", path, says=["this command needs a surface", "job.h5"])
    (tmp_path / "job.h5").write_bytes(b"")
    output = refused("render", path, "--as", "filled", says="needs a surface: ")
    assert "will make" not in str(output)
    path.write_text("name: [")
    refused("render", path, "--as", "history", says="is a job file; --as history needs a training")


@pytest.mark.parametrize(
    ("closed", "command", "code", "says"),
    [
        ("centre.pt", ["eval", "job.yaml"], 2, "model.checkpoint: "),
        ("data.npz", ["eval", "job.yaml"], 2, "data.root: "),
        ("job.yaml", ["train", "job.yaml"], 2, "job.yaml"),
        ("plane.h5", ["status", "plane.h5"], 4, "plane.h5: "),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_files_that_may_not_be_read(job, surface, closed, command, code, says):
    """The file is named, with the reason."""
    folder = job().parent
    (folder / closed).chmod(0)
    before = {p.name for p in folder.iterdir()}
    found = run_unprivileged(command[0], folder / command[1])
    check_refusal(*found, code, says)
    assert "ermission" in found[2]
    assert {p.name for p in folder.iterdir()} == before


def test_messages_are_for_json_readers_too(refused, tmp_path, capfd):
    """`status --json` prints JSON or nothing on its standard output."""
    refused("status", tmp_path / "gone.h5", "--json", says="no such file")
    assert capfd.readouterr().out == ""
