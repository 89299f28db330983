"""The doctor's conversation with ranks: who is asked, who is late, and who is ended."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from lsengine import store
from lsengine.doctor import examination
from lsengine.doctor.checks import Verdict
from lsengine.doctor.examination import RankExamination, Tag, serve
from lsengine.errors import EnvironmentUnfit
from lsengine.ranks import Message
from tests.support.doctors import examine, verdicts
from tests.support.launchers import BIN, launcher_environment, serial_environment
from tests.support.worlds import ScriptedWorld


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Look at nothing, find nothing wrong with the device, and wait for nobody."""
    monkeypatch.setattr(examination, "look", lambda: "what it found")
    monkeypatch.setattr(examination, "try_device", lambda slot, threads: f"card {slot} is odd")
    for limit in ("_ARRIVAL_S", "_STEP_S"):
        monkeypatch.setattr(examination, limit, 0.0)


def test_a_rank_answers_what_it_is_asked_and_leaves_with_the_last_code(tmp_path):
    """It tells what it finds, signs the ring for the next rank, and tries its own device."""
    question = ((3, 1), None, False)
    asked = [(Tag.RING, [(0, 1.0), (1, 2.0)]), (Tag.TRY, question), (Tag.STOP, 4)]
    world = ScriptedWorld(rank=2, size=3, messages=[Message(0, *asks) for asks in asked])
    before = time.time()
    assert serve(world) == 4
    assert world.sent[0] == ("what it found", 0, Tag.FOUND)
    signed, to, tag = world.sent[1]
    assert (signed[:2], to, tag) == ([(0, 1.0), (1, 2.0)], 0, Tag.RING)  # the ring closes
    assert signed[2][0] == 2
    assert before <= signed[2][1] <= time.time()
    assert world.sent[2:] == [(("card 3 is odd", ""), 0, Tag.FOUND)]


def test_a_rank_that_is_told_nothing_leaves():
    """Rank 0 may have died: the code is that of an unfit environment."""
    world = ScriptedWorld(rank=1, size=2)
    assert serve(world) == EnvironmentUnfit.exit_code
    assert world.sent == [("what it found", 0, Tag.FOUND)]


def test_a_file_that_a_rank_does_not_see_is_told(tmp_path, monkeypatch):
    """It is looked for again and again: a network file system shows a new file after a while."""
    naps = []
    monkeypatch.setattr(time, "sleep", naps.append)
    question = ((0, 1), tmp_path / "not there", False)
    asked = [Message(0, Tag.TRY, question), Message(0, Tag.STOP, 0)]
    world = ScriptedWorld(rank=1, size=2, messages=asked)
    assert serve(world) == 0
    assert world.sent[1] == (("card 0 is odd", "does not see the file"), 0, Tag.FOUND)
    assert sum(naps) > 5


def test_late_ranks_are_missing_from_then_on(monkeypatch):
    """Those who have answered are not; the ring is not sent past the others; they are ended."""
    world = ScriptedWorld(rank=0, size=4, messages=[Message(2, Tag.FOUND, "here")])
    rank_examination = RankExamination(world)
    assert rank_examination._answers({1, 2, 3}, 0.0) == {2: "here"}
    monkeypatch.setattr(examination.rules, "hosts", lambda probes: "1 rank on 1 host")
    launcher, ring = rank_examination._launcher(), rank_examination._ring()
    assert launcher.verdict == Verdict.PROBLEM
    assert "no word within 0 s from ranks 1, 3; 1 rank on 1 host" in launcher.found
    assert ring.verdict == Verdict.WARNING
    assert not world.sent
    ended = []
    monkeypatch.setattr(examination.ranks, "abort_other_ranks", ended.append)
    rank_examination.end(3)
    assert world.sent == [(3, rank, Tag.STOP) for rank in (1, 2, 3)]
    assert ended == [3]


def test_ranks_that_are_all_there_are_let_go(monkeypatch):
    """Nobody is ended by force."""
    monkeypatch.setattr(examination.ranks, "abort_other_ranks", pytest.fail)
    world = ScriptedWorld(rank=0, size=2, messages=[Message(1, Tag.FOUND, "here")])
    rank_examination = RankExamination(world)
    rank_examination._answers({1}, 0.0)
    rank_examination.end(0)
    assert world.sent == [(0, 1, Tag.STOP)]


@pytest.mark.parametrize(
    ("passed", "verdict", "offset"),
    [
        ([0, 1], Verdict.OK, -7.0),  # rank 1's clock is seven seconds late
        ([0], Verdict.PROBLEM, None),
        (None, Verdict.PROBLEM, None),
    ],
)
def test_the_ring_tells_who_was_passed_and_whose_clock_is_off(monkeypatch, passed, verdict, offset):
    """An offset is how far a clock lies outside the time that the message was on its way."""
    monkeypatch.setattr(time, "time", lambda: 100.0)
    back = [] if passed is None else [Message(1, Tag.RING, [(r, 93.0) for r in passed])]
    world = ScriptedWorld(rank=0, size=2, messages=back)
    rank_examination = RankExamination(world)
    assert rank_examination._ring().verdict == verdict
    assert world.sent == [([(0, 100.0)], 1, Tag.RING)]
    assert rank_examination._clock_offsets == ({} if offset is None else {1: offset})


@pytest.mark.parametrize("environment", ["main", pytest.param("serial", marks=pytest.mark.cluster)])
def test_all_ranks_are_checked(tmp_path, environment):
    """Three ranks: each is heard, signs the ring message, and writes where h5py can."""
    binaries = BIN
    if environment == "serial":
        if (folder := serial_environment()) is None:
            pytest.skip("no environment made from pip alone")
        binaries = folder / "bin"
    done = examine(3, tmp_path, binaries=binaries)
    assert done.returncode == 0, done.stdout + done.stderr
    found = verdicts(done)
    host = os.uname().nodename
    assert found["launcher"]["found"].startswith(f"3 ranks on 1 host: {host} (3); ")
    assert found["ring message"]["found"] == "passed all 3 ranks in order"
    assert found["shared folder"]["verdict"] == "ok"
    if environment == "serial":
        assert "rank 0 writes for all" in found["parallel writing"]["found"]
    elif store.has_mpi():
        assert found["parallel writing"]["found"].startswith("3 ranks wrote a cell each")
    assert not [*tmp_path.iterdir()]


@pytest.mark.cluster
def test_a_rank_that_hangs_is_named_and_ended(tmp_path):
    """Rank 0 waits for a while, says who is missing, and no rank is left."""
    program = (
        "import pathlib, sys, time; from lsengine import doctor, ranks;"
        "from lsengine.doctor import examination; examination._ARRIVAL_S = 6.0;"
        "world = ranks.join();"
        "time.sleep(3600 if world.rank == 2 else 0);"
        f"sys.exit(doctor.run(pathlib.Path({str(tmp_path)!r}), json=True))"
    )
    done = subprocess.run(
        [str(BIN / "mpirun"), "-n", "3", sys.executable, "-c", program],
        env=launcher_environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    found = verdicts(done)
    assert done.returncode != 0
    assert found["launcher"]["verdict"] == "problem"
    assert "from ranks 2;" in found["launcher"]["found"]
