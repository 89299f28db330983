"""What the process says that reads a file first, and that it ends itself."""

from __future__ import annotations

import faulthandler
import json
import os
import signal

import h5py
import numpy as np
import pytest

from lsengine import store
from lsengine.store import guarded


@pytest.fixture
def answered(layout, tmp_path):
    """Return a function that has a surface read, and returns the answer."""
    path = tmp_path / "s.h5"
    store.create(path, layout)

    def of(change=None):
        if change is not None:
            with h5py.File(path, "r+") as file:
                change(file)
        ours, theirs = os.pipe()
        guarded.answer(path, theirs)
        os.close(theirs)
        with os.fdopen(ours, "rb") as pipe:
            return json.loads(pipe.read())

    return of


def test_a_good_file_has_no_problem(answered):
    """Whatever a surface of ours holds can be read, and chunks of others can, too."""
    assert answered() is None
    assert answered(lambda file: file.create_dataset("more", data=np.ones(9), chunks=(2,))) is None


def test_what_is_not_plain_is_named(answered):
    """The structure is looked at there first, because that alone may crash."""
    problem = answered(lambda file: file.__setitem__("status again", h5py.SoftLink("/status")))
    assert problem.startswith("status again is a soft link")


@pytest.mark.parametrize("how", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS])
def test_a_crash_is_told_by_its_name(answered, monkeypatch, how):
    """The answer names the signal."""

    def crash(path):
        faulthandler.disable()  # of this test's process; it would print where
        os.kill(os.getpid(), how)

    monkeypatch.setattr(guarded, "problem", crash)
    assert answered() == f"damaged: HDF5 crashes over it ({how.name})"


def test_reading_that_does_not_end_is_ended(answered, monkeypatch):
    """A loop is cut off by the time of the processor, not by that of a busy machine."""

    def loop(path):
        while True:
            pass

    monkeypatch.setattr(guarded, "problem", loop)
    monkeypatch.setattr(guarded, "_TIME_S", 1)
    assert answered() == "damaged: reading it does not end"


def test_waiting_is_ended(answered, monkeypatch):
    """A file system that does not answer is no loop."""
    monkeypatch.setattr(guarded, "problem", lambda path: signal.pause())
    monkeypatch.setattr(guarded, "_WAIT_S", 1)
    assert answered().startswith("damaged: it could not be read in ")


def test_memory_is_limited_by_the_size_of_the_file(answered, monkeypatch):
    """3 GiB are not to be had for a file of some KiB, and half a GiB is."""

    def take(path):
        np.empty(2**29, np.uint8)
        try:
            np.empty(3 * 2**30, np.uint8)
        except MemoryError:
            return "no memory"
        return "memory"

    monkeypatch.setattr(guarded, "problem", take)
    assert answered() == "no memory"


def test_damage_in_a_chunk_is_found(answered, tmp_path):
    """Compressed values are unpacked there before anybody else does it."""

    def add(file):
        file.create_dataset("more", data=np.arange(999.0), chunks=(999,), compression="gzip")

    assert answered(add) is None
    with h5py.File(tmp_path / "s.h5") as file:
        at = file["more"].id.get_chunk_info(0).byte_offset
    content = bytearray((tmp_path / "s.h5").read_bytes())
    content[at + 20] ^= 255
    (tmp_path / "s.h5").write_bytes(content)
    assert answered().startswith("damaged: OSError")
