"""What every command owes a user or a script: light feet, exit codes, ends."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lsengine.cli import main
from tests.support.planes import partial_plane

LSENGINE = Path(sys.prefix, "bin", "lsengine")


LOADING = """
import json, sys
from lsengine.cli import main
heavy = set(json.loads(sys.argv[1]))
loaded = []
for arguments in json.loads(sys.argv[2]):
    try:
        code = main(arguments)
    except SystemExit as ended:
        code = ended.code
    loaded.append([code, sorted(heavy & set(sys.modules))])
print(json.dumps(loaded), file=sys.stderr)
"""
OF_JOBS = {"pydantic", "yaml"}
OF_FILES = {"numpy", "h5py"}
OF_COMPILERS = {"torch._dynamo", "torch._inductor", "sympy", "triton"}
NEVER = {"torchvision", "transformers", "peft", "pandas", "sklearn", "xarray", "pyvista", "mpi4py"}
HEAVY = {"torch", "scipy", "matplotlib", "PIL", "plotly", "vtkmodules", "matplotlib.pyplot"}
ONE_PROBE = ["--trace", "1", "--vectors", "0", "--density", "0"]
# In one interpreter each: a command loads nothing that neither it nor one before it needs.
CHAINS = {
    "looking at surfaces": [
        (["--help"], set()),
        (["eval", "--help"], set()),
        (["--version"], set()),
        (["init", "started.yaml"], set()),
        (["status", "plane.h5"], OF_FILES),
        (["status", "plane.h5", "--json"], set()),
        (["export", "plane.h5", "--to", "csv", "--output", "plane.csv"], set()),
        (["export", "plane.h5", "--to", "vts", "--output", "plane.vts"], {"vtkmodules"}),
        (["render", "plane.h5", "--as", "heatmap"], {"matplotlib", "PIL"}),
        (["render", "plane.h5", "--as", "html"], {"plotly", "scipy"}),  # cells are missing
    ],
    "comparing": [(["compare", "plane.h5", "--level", "x2"], OF_FILES | {"scipy"})],
    "with jobs": [
        (["schema"], OF_JOBS),
        (["status", "job.yaml"], OF_FILES),
        (["submit", "job.yaml", "--dry-run"], set()),
        (["models"], {"torch"}),
        (["eval", "job.yaml"], set()),
        (["spectrum", "job.yaml", *ONE_PROBE], set()),  # watches a copy of one's own network
    ],
}


@pytest.mark.parametrize("chain", CHAINS)
def test_a_command_loads_only_what_it_needs(make_job, tmp_path, chain):
    """Help touches neither a number nor a file; a laptop without torch draws what another made."""
    make_job(grid={"alpha": [-1, 1, 2], "beta": [-1, 1, 2]})
    partial_plane(tmp_path / "plane.h5")
    commands = [arguments for arguments, _ in CHAINS[chain]]
    heavy = sorted(OF_JOBS | OF_FILES | OF_COMPILERS | NEVER | HEAVY)
    ended = subprocess.run(
        [sys.executable, "-c", LOADING, json.dumps(heavy), json.dumps(commands)],
        capture_output=True,
        text=True,
        timeout=170,
        check=True,
        cwd=tmp_path,
    )
    needed = set()
    found = json.loads(ended.stderr.splitlines()[-1])
    for (arguments, more), (code, loaded) in zip(CHAINS[chain], found, strict=True):
        needed |= more
        assert (code, set(loaded)) == (0, needed), (arguments, ended.stderr)


def test_a_bug_keeps_its_traceback(monkeypatch, capsys):
    """Code 1; every line says which rank it is of, on which host."""
    from lsengine import models

    def broken():
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(models, "zoo", broken)
    assert main(["models"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith(f"r000 {socket.gethostname()} ") for line in lines)
    assert "Traceback" in lines[0]
    assert lines[-1].endswith("ZeroDivisionError: a bug")


def test_an_interrupted_command_can_be_given_again(monkeypatch, capsys):
    """Ctrl-C is no bug: code 75."""
    from lsengine import models

    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(models, "zoo", interrupted)
    assert main(["models"]) == 75
    assert "Traceback" not in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_error():
    """`lsengine schema | head -1` ends quietly, and with 0, as all that was asked for is done."""
    assert _piped(f"'{LSENGINE}' schema") == (0, "{\n", [])


@pytest.mark.parametrize(
    ("shell", "code"),
    [
        ("schema > /dev/full", 3),
        ("schema >&-", 0),
        ("schema 2>&- > /dev/null", 0),
        ("schema 2> /dev/full > /dev/null", 0),
        ("status none.h5 >&-", 2),
        ("status none.h5 2>&-", 2),
        ("status none.h5 2> /dev/full", 2),
    ],
)
def test_streams_that_are_closed_or_full_cost_no_traceback(shell, code, tmp_path):
    """A result that cannot be written is code 3; what nobody wants to read is no error."""
    ended = subprocess.run(
        f"'{LSENGINE}' {shell}", shell=True, cwd=tmp_path, capture_output=True, text=True
    )
    assert ended.returncode == code
    assert "Traceback" not in ended.stdout + ended.stderr
    if code == 3:
        assert ended.stderr.startswith("standard output cannot be written: No space left")


def test_no_file_gets_the_number_of_a_closed_stream(tmp_path):
    """What is printed would go into it."""
    code = (
        "import os; from lsengine.cli import entry; entry._open_what_is_closed();"
        "number = os.open('file', os.O_CREAT | os.O_WRONLY); open('number', 'w').write(str(number))"
    )
    command = f"'{sys.executable}' -c \"$CODE\" <&- >&- 2>&-"
    environment = os.environ | {"CODE": code}
    subprocess.run(command, shell=True, env=environment, cwd=tmp_path, check=True)
    assert int((tmp_path / "number").read_text()) > 2


def test_work_that_a_broken_pipe_ends_is_not_done(monkeypatch, capsys):
    """Whatever the command: code 75, as after Ctrl-C, unless only its result is not read."""
    from lsengine import models

    def broken():
        raise BrokenPipeError

    monkeypatch.setattr(models, "zoo", broken)
    assert main(["models"]) == 75
    assert capsys.readouterr().err == "interrupted; the same command goes on\n"


def _unread(*arguments):
    """Return the code of a command that prints into a pipe which nobody reads any more."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe, contextlib.redirect_stdout(pipe):
        return main([str(argument) for argument in arguments])


def test_watching_ends_when_nobody_reads(tmp_path):
    """Whoever watches no more does not want to know; without the end it would go on for ever."""
    path = partial_plane(tmp_path / "plane.h5")
    assert _unread("status", path, "--watch", "--every", "0.1") == 0


def test_a_picture_that_is_watched_is_not_done_when_nobody_reads(tmp_path, capfd):
    """It is there, but cells are still to come: code 75, and what to do."""
    path, picture = partial_plane(tmp_path / "plane.h5"), tmp_path / "a.png"
    arguments = ["--as", "heatmap", "--output", picture, "--watch", "--every", "0.1"]
    assert _unread("render", path, *arguments) == 75
    assert picture.stat().st_size > 1000
    assert "the same command goes on" in capfd.readouterr().err


@pytest.mark.parametrize("arguments", [["schema"], ["models"], ["status", "SURFACE"]])
def test_results_that_nobody_reads_are_results(tmp_path, capfd, arguments):
    """Of a few bytes, too, which Python would write when it ends."""
    path = partial_plane(tmp_path / "plane.h5")
    assert _unread(*(path if a == "SURFACE" else a for a in arguments)) == 0
    assert capfd.readouterr().err == ""


def _piped(command, **options):
    """Return code, output and errors of a command whose reader goes away after a line."""
    script = f"set -o pipefail; {{ {command}; echo code $? >&2; }} | head -n 1"
    ended = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=60, check=False, **options
    )
    *errors, code = ended.stderr.splitlines()
    return int(code.removeprefix("code ")), ended.stdout, errors


def test_jobs_are_submitted_though_nobody_reads_their_numbers(make_job, tmp_path):
    """`lsengine submit JOBS | head -1` submits all of them, and only then ends, with 0."""
    jobs = [make_job(f"job{i}") for i in range(3)]
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    # The reader is gone before the second number comes.
    sbatch.write_text(f"#!/bin/sh\ncat >/dev/null; echo 7 | tee -a {tmp_path}/numbers; sleep 0.3\n")
    sbatch.chmod(0o755)
    environment = {**os.environ, "PATH": f"{sbatch.parent}:{os.environ['PATH']}"}
    command = f"'{LSENGINE}' submit {' '.join(map(str, jobs))} --probe 0"
    code, output, _ = _piped(command, env=environment)
    assert (code, output) == (0, "7 eval job0\n")
    assert (tmp_path / "numbers").read_text() == "7\n" * 3


@pytest.mark.parametrize("name", ["\x1b[2Jx", "\x9bx", "a\rb"])
def test_no_character_of_a_file_or_a_name_is_obeyed_by_the_terminal(tmp_path, capsys, name):
    """In results and in messages they are shown as escapes."""
    from lsengine.cli.commands import tell

    assert main(["status", str(tmp_path / f"{name}.h5")]) == 2
    tell(f"{name}\tis\na name")
    for text in capsys.readouterr():
        assert ascii(name)[1:-1] in text
        assert not {c for c in text if not c.isprintable()} - {"\n", "\t"}


@pytest.mark.parametrize(
    "command", [["status"], ["eval"], ["train"], ["compare"], ["doctor"], ["eval", "a.yaml", "--x"]]
)
def test_no_name_makes_a_line_that_looks_like_a_message(capsys, command):
    """Ends of lines in names are escapes in errors of the command line, else indented."""
    forged = "lsengine: error: forged"
    code = 0
    try:
        code = main([*command, f"a\n{forged}"])
    except SystemExit as ended:
        code = ended.code
    said = capsys.readouterr().err
    assert (code, forged in said) == (2, True)
    assert not [line for line in said.splitlines() if line.startswith(forged)]
