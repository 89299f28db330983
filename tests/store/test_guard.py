"""Files of others are read by another process first, which serves this one and its forks."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import h5py
import pytest

from lsengine import store
from lsengine.errors import EnvironmentUnfit, SurfaceError
from lsengine.store import digest, guard
from lsengine.store.structure import Unfit

ARCHIVE = Path(__file__).parents[1] / "archive"
CHILD = """
import sys
from pathlib import Path
from lsengine.store import guard
guard.refuse_damaged(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(layout, tmp_path):
    """A surface whose digest fits."""
    store.create(tmp_path / "s.h5", layout)
    return tmp_path / "s.h5"


def crashes(path):
    """Change one bit, the size of an attribute's type, over which HDF5 1.10 crashes."""
    with h5py.File(path, "r+") as file:
        file.attrs["other"] = "text"
    content = bytearray(path.read_bytes())
    name = content.index(b"other\0")
    content[name - 3] ^= 8
    path.write_bytes(content)


def helpers(mark):
    """Return the processes whose environment has a mark and that serve."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            serves = b"guarded.serve" in (folder / "cmdline").read_bytes()
            if serves and mark.encode() in (folder / "environ").read_bytes():
                found.append(folder)
        except OSError:  # it has just ended
            continue
    return found


def test_a_file_that_crashes_hdf5_is_refused_and_this_process_lives(path):
    """Opening it is an error with the file's name; a good file is read after it."""
    crashes(path)
    for read in (store.read, store.read_attributes, store.read_directions, store.Writer):
        with pytest.raises(SurfaceError, match=r"s\.h5: damaged: ") as refusal:
            read(path)
        assert refusal.value.exit_code == 4
    assert store.read(ARCHIVE / "surface-v1.h5").counts()["done"]


def test_only_trusted_files_whose_digest_fits_are_not_examined(path, tmp_path, monkeypatch):
    """A run's own file costs no other process; any other is examined once until it changes."""
    examined = []
    monkeypatch.setattr(guard, "refuse_damaged", examined.append)
    store.read(path)
    assert examined == []
    other = tmp_path / "other.h5"
    shutil.copyfile(path, other)
    store.read(other)
    store.read_status(other)
    assert examined == [other]
    with h5py.File(path, "r+") as file:
        digest.remove(file)
    store.trust(path)
    store.read(path)
    store.read_status(path)
    assert examined == [other, path]


def test_a_digest_made_up_for_a_file_that_crashes_hdf5_does_not_help_it(path, tmp_path):
    """Anybody can write a digest that fits: the file is examined all the same."""
    crashes(path)
    other, text = tmp_path / "other.h5", b"lsengine layout digest 1\n"
    zeros = b"0" * 64
    end = b'{"cells": [], "data": [], "sha256": "' + zeros + b'"}\0'
    content = path.read_bytes() + text + end
    at = content.rindex(zeros)
    covered = content[:20] + content[24:at] + content[at + 64 :]
    digits = hashlib.sha256(covered).hexdigest().encode()
    other.write_bytes(content[:at] + digits + content[at + 64 :])
    assert digest.state(other) is digest.State.FITS
    with pytest.raises(SurfaceError, match=r"other\.h5: damaged: "):
        store.read(other)


def test_single_bits_of_an_old_file_end_in_an_answer(tmp_path):
    """A crash is one of the answers; this process survives all of them."""
    content = (ARCHIVE / "surface-v2.h5").read_bytes()
    answers = set()
    for number in range(60):
        wrong = bytearray(content)
        at = 500 + 37 * number
        wrong[at] ^= 1 << number % 8
        (tmp_path / "x.h5").write_bytes(wrong)
        try:
            guard.refuse_damaged(tmp_path / "x.h5")
            answers.add("good")
        except Unfit as refusal:
            answers.add(str(refusal).split(":")[0])
    assert {"good", "damaged"} <= answers


def test_a_process_that_was_ended_is_started_again(path):
    """Whoever needs memory may end it."""
    guard.refuse_damaged(path)
    guard._helper[0].close()
    guard.refuse_damaged(path)


def test_without_the_process_nothing_is_read(path, monkeypatch):
    """An environment that cannot start it has one message."""
    monkeypatch.setattr(guard, "_helper", [])
    monkeypatch.setattr(guard.sys, "executable", "/nowhere/python")
    with pytest.raises(EnvironmentUnfit, match=r"s\.h5: the process that reads a file"):
        guard.refuse_damaged(path)


def test_forks_share_the_process(path):
    """Each has its own answer."""
    guard.refuse_damaged(path)
    crashes(path)
    children = []
    for number in range(4):
        child = os.fork()
        if child == 0:
            try:
                guard.refuse_damaged(path if number % 2 else ARCHIVE / "surface-v2.h5")
            except Unfit:
                os._exit(7)
            os._exit(0)
        children.append(child)
    ended = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert ended == [0, 7, 0, 7]


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
def test_it_ends_with_its_parent_and_is_no_rank(path, tmp_path):
    """A parent that is killed leaves none behind; variables of launchers are not handed on."""
    mark = f"LSENGINE_TEST_MARK={tmp_path}"
    environment = {**os.environ, "LSENGINE_TEST_MARK": str(tmp_path), "PMI_RANK": "1"}
    environment |= {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "PMIX_RANK": "1"}
    parent = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path)],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert parent.stdout.readline() == b"ready\n"
        (helper,) = helpers(mark)
        theirs = (helper / "environ").read_bytes()
        assert b"OMPI_" not in theirs
        assert b"PMIX_" not in theirs
        assert b"PMI_RANK" not in theirs
    finally:
        parent.kill()
        parent.communicate()
    end = time.monotonic() + 20
    while helpers(mark):
        assert time.monotonic() < end
        time.sleep(0.02)
