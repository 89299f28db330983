"""The harness itself: what it must not let pass."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import confined, warm
from tests.fuzz.warm import Command
from tests.fuzz.world import SECRET, World

ROOT = Path(__file__).parents[2]


@pytest.fixture
def world(tmp_path):
    """A world with nothing but a file that nobody may touch."""
    (tmp_path / "world" / "outside").mkdir(parents=True)
    (tmp_path / "world" / "outside" / "precious").write_bytes(b"text")
    return World(tmp_path / "world")


@pytest.mark.parametrize(
    ("deed", "found"),
    [
        (lambda world: 0, ""),
        (lambda world: 1, "exit code 1"),
        (lambda world: 1 / 0, "traceback"),
        (lambda world: os.kill(os.getpid(), signal.SIGUSR2), "ended by SIGUSR2"),
        (lambda world: os.kill(os.getpid(), signal.SIGXCPU), "hung"),
        (lambda world: print("\x1b[31m") or 2, "control character"),
        (lambda world: print(SECRET.decode() * 3) or 0, "another file's bytes"),
        (lambda world: (world.outside / "precious").write_bytes(b"else") and 0, "another file"),
        (lambda world: Path("input").write_bytes(b"changed") and 4, "refused, but changed"),
        (lambda world: len(bytearray(b"x") * (2**30 + 2**29)) and 0, "MiB"),
    ],
)
def test_what_a_command_must_not_do_is_found(world, tmp_path, monkeypatch, deed, found):
    """A bug's exit code, traceback, signal, escape sequence, leak, foreign write or much memory."""
    monkeypatch.setattr(warm, "call", lambda *_: deed(world))
    path = tmp_path / "input"
    path.write_bytes(b"as it was")
    _, problem = warm.run(Command([], refused_without_change=[path]), world, tmp_path)
    assert found in problem if found else not problem


@pytest.mark.skipif(not confined.version(), reason="this kernel has no Landlock")
def test_a_confined_process_writes_in_its_folder_only(tmp_path):
    """It makes and changes files there, and nowhere else; nor do its children."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "other").write_text("as it was")
    code = (
        "import subprocess, sys; from pathlib import Path; from tests.fuzz import confined\n"
        "confined.confine(Path('mine'))\n"
        "Path('mine/new').write_text('x')\n"
        "for name in ('other', 'new'):\n"
        "    try: Path(name).write_text('x')\n"
        "    except PermissionError: print('refused')\n"
        "print(subprocess.run(['sh', '-c', 'echo x > other']).returncode != 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["refused", "refused", "True"], done.stderr
    assert (tmp_path / "other").read_text() == "as it was"
    assert not (tmp_path / "new").exists()


def test_a_case_that_ends_its_maker_is_not_made_and_the_others_are(world, tmp_path, monkeypatch):
    """In the order of their numbers, over several forks; what fails is told with its number."""
    monkeypatch.setattr(warm, "_CASES_OF_A_FORK", 3)
    monkeypatch.setattr(warm, "call", lambda code: code)

    def prepare(world, folder, number):
        if number == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        assert number != 6
        return [Command([1 if number == 7 else 2])]

    told = list(warm.cases(prepare, world, range(9), tmp_path))
    assert [case["number"] for case in told] == [*range(9)]
    assert [case["number"] for case in told if "unmade" in case] == [4, 6]
    assert [case["codes"] for case in told if "codes" in case] == [[2]] * 5 + [[1], [2]]
    assert [p[1] for case in told for p in case.get("problems", [])] == ["exit code 1"]
    assert (tmp_path / "7").exists()
    assert not (tmp_path / "8").exists()
