"""Log lines, and reports of progress."""

from __future__ import annotations

import logging
import socket
import sys
import time

import pytest

from lsengine import log
from lsengine.log import NOTICE, Progress


@pytest.fixture(autouse=True)
def _as_before():
    """Give the package's logger back as it was."""
    root = logging.getLogger("lsengine")
    before = root.handlers[:], root.level, root.propagate
    yield
    root.handlers[:], root.level, root.propagate = before


@pytest.fixture
def now(monkeypatch):
    """Stop the clock; it goes on when the test says so."""
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    return clock


def test_a_line_has_rank_and_host_first(capsys, monkeypatch):
    """Then the time, a level, if it is worse than a notice, and what happened."""
    monkeypatch.setattr(time, "time", lambda: 0.0)
    monkeypatch.setattr(time, "time_ns", lambda: 0)  # from Python 3.13 on
    log.configure(0)
    speaker = logging.getLogger("lsengine.somewhere")
    speaker.info("cells=%d", 7)
    speaker.log(NOTICE, "a notice")
    speaker.warning("careful")
    head = f"r000 {socket.gethostname()} {time.strftime('%Y-%m-%dT%H:%M:%S', time.localtime(0))}"
    assert capsys.readouterr().err.splitlines() == [
        f"{head} cells=7",
        f"{head} a notice",
        f"{head} WARNING careful",
    ]


def test_who_wants_quiet_gets_warnings_and_errors(capsys):
    """Of every rank; and all of it again when it is not wanted any more."""
    speaker = logging.getLogger("lsengine.somewhere")
    for quiet in (True, False):
        log.set_quiet(quiet)
        for rank in (0, 1):
            log.configure(rank)
            speaker.log(NOTICE, "a notice")
            speaker.warning("careful")
        said = [line.split(" ", 3)[3] for line in capsys.readouterr().err.splitlines()]
        assert said == (["WARNING careful"] * 2 if quiet else ["a notice", "WARNING careful"] * 2)


def test_other_ranks_say_only_what_a_user_wants_of_each(capsys):
    """Information is rank 0's; a notice is everybody's."""
    log.configure(12)
    speaker = logging.getLogger("lsengine.somewhere")
    speaker.info("only once")
    speaker.log(NOTICE, "of every rank")
    line = capsys.readouterr().err
    assert line.startswith(f"r012 {socket.gethostname()} ")
    assert line.endswith(" of every rank\n")
    assert line.count("\n") == 1


def test_lines_come_every_ten_seconds_with_the_rate_of_this_run(capsys, now):
    """40 cells were there before: 20 in 10 s are 2 a second, and 40 are left for 20 s."""
    log.configure(0)
    progress = Progress("cells", total=100, done=40, style="lines")
    now[0] += 5
    progress.advance(10)
    assert not capsys.readouterr().err
    now[0] += 5
    progress.advance(10)
    assert capsys.readouterr().err.endswith(" cells=60/100 rate=2/s eta=20s\n")


def test_values_are_told_in_place_of_the_rate_and_at_the_end(capsys, now):
    """The last epoch has its line, however soon it comes."""
    log.configure(0)
    progress = Progress("epoch", total=2, done=0, style="lines")
    now[0] += 1
    progress.advance(values="loss=3")
    assert not capsys.readouterr().err
    progress.advance(values="loss=2")
    assert capsys.readouterr().err.endswith(" epoch=2/2 loss=2 eta=0s\n")


def test_no_style_but_a_bar_draws_one(capsys, monkeypatch):
    """A terminal gets a bar from "auto", a pipe lines, and "none" is silent."""
    Progress("cells", total=2, done=0, style="none").advance(2, "loss=1")
    Progress("cells", total=2, done=0, style="auto").advance()
    assert not capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    progress = Progress("cells", total=3, done=1, style="auto")
    progress.advance(2)
    progress.close()
    assert "3/3" in capsys.readouterr().err


def test_a_terminal_that_goes_away_ends_no_run(monkeypatch):
    """After the first failure nothing is shown any more, and nothing is raised."""
    progress = Progress("cells", total=3, done=0, style="bar")
    tries = []

    def broken(count):
        tries.append(count)
        raise BrokenPipeError

    monkeypatch.setattr(progress._bar, "update", broken)
    for _ in range(3):
        progress.advance()
    progress.close()
    assert tries == [1]


def test_log_lines_of_a_library_are_the_callers(capsys, monkeypatch):
    """Warnings are shown if it speaks, else nothing; set-up has no effect meanwhile."""
    root = logging.getLogger("lsengine")
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    root.handlers[:], root.propagate = [], True
    root.setLevel(logging.NOTSET)
    for speaks, said in ((True, "lsengine: careful\n"), (False, "")):
        with log.callers(speaks=speaks):
            log.configure(rank=0)
            logging.getLogger("lsengine.somewhere").warning("careful")
            logging.getLogger("lsengine.somewhere").info("by the way")
        assert capsys.readouterr().err == said
    assert (root.handlers, root.level, root.propagate) == ([], logging.NOTSET, True)


def test_a_line_has_no_characters_that_a_terminal_obeys(capsys):
    """Those of a name or a value are shown as escapes, whoever asked for the line."""
    log.configure(0)
    logging.getLogger("lsengine.x").warning("%s", "\x1b]0;title\x07")
    logging.getLogger("lsengine").handlers.clear()
    with log.callers(speaks=True):
        logging.getLogger("lsengine.x").warning("%s", "\x1b]0;title\x07")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.endswith(r"\x1b]0;title\x07") for line in lines)
