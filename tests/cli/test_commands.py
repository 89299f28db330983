"""What every command owes a user or a script: help, light feet, JSON that stays, exit codes."""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import yaml

from lsengine import cli, store
from lsengine import job as jobs
from lsengine.cli import main
from lsengine.job.schema import ARCHITECTURES, Document
from lsengine.store import lock
from lsengine.surface.grid import Grid

LSENGINE = Path(sys.prefix, "bin", "lsengine")
PARAMETERS = {  # at 3x32x32 and 10 classes; sums over the layers of the papers' tables
    "resnet20": 272_474,
    "resnet56": 855_770,
    "resnet56_noshort": 853_018,
    "resnet110": 1_730_714,
    "densenet121": 6_956_298,
    "vgg16": 14_991_946,
}


def _parsers():
    parser = cli.build_parser()
    action = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return parser, action


COMMANDS = sorted(_parsers()[1].choices)


def _surface(path, failed=()):
    """Lay a plane of 3 x 4 cells out and finish the first ten, one each second."""
    grid = Grid({"beta": np.arange(3.0), "alpha": np.linspace(-1, 2, 4)})
    attributes = {"name": "plane", "writing": "gather", "batch_size": 7, "fingerprint": "f"}
    store.create(path, store.Layout(grid=grid, quantities=["train_loss"], attributes=attributes))
    _finish(path, range(10), failed)
    return path


def _finish(path, cells, failed=()):
    cells = list(cells)
    values = {"train_loss": [1.0 + c for c in cells]}
    seconds = [1e9 + c for c in cells]
    failures = {c: f"no cell {c}" for c in failed}
    writer = store.Writer(path)
    writer.write(
        store.CellResults(
            cells=cells,
            values=values,
            wall_s=[0.1] * len(cells),
            finished=seconds,
            failures=failures,
        )
    )
    writer.close()


def _status(capsys, path):
    assert main(["status", str(path), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


# Help.


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(capsys, command):
    """One line in the list of commands, and a word on each argument of its own."""
    parser, action = _parsers()
    assert next(c.help for c in action._choices_actions if c.dest == command)
    assert command in parser.format_help()
    for argument in action.choices[command]._actions:
        assert argument.help or argument.metavar, f"{command}: {argument.dest}"
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"usage: lsengine {command}" in capsys.readouterr().out


def test_help_lists_the_exit_codes(capsys):
    """Scripts resubmit by them."""
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(f"{code} " in text.partition("exit codes")[2] for code in (0, 1, 2, 3, 4, 5, 75))


def test_help_comes_at_once():
    """The best of up to twenty beats 0.3 s, process start included."""
    seconds: list[float] = []
    while len(seconds) < 20 and min(seconds, default=1.0) >= 0.3:
        start = time.perf_counter()
        subprocess.run([LSENGINE, "--help"], stdout=subprocess.DEVNULL, check=True)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.3


# Light feet.


def _loaded_by(*arguments):
    """Return the heavy modules that a command loads in a fresh interpreter."""
    script = (
        "import sys; from lsengine.cli import main\n"
        "try: code = main(sys.argv[1:])\n"
        "except SystemExit as ended: code = ended.code\n"
        "heavy = {'torch', 'mpi4py', 'numpy', 'h5py', 'pydantic', 'yaml', 'matplotlib'}\n"
        "print(code, *sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    code, *heavy = ended.stderr.splitlines()[-1].split()
    assert code == "0", ended.stderr
    return set(heavy)


@pytest.mark.parametrize("arguments", [["--help"], ["eval", "--help"], ["--version"]])
def test_help_loads_nothing_heavy(arguments):
    """Neither a number nor a file is touched."""
    assert _loaded_by(*arguments) == set()


def test_init_loads_nothing_heavy(tmp_path):
    """The starter job is a copy of a file."""
    assert _loaded_by("init", tmp_path / "job.yaml") == set()


LIGHT = [
    ["status", "SURFACE"],
    ["status", "SURFACE", "--json"],
    ["render", "SURFACE", "--as", "heatmap"],
    ["compare", "SURFACE", "--level", "x2"],
    ["export", "SURFACE", "--to", "csv", "--output", "FOLDER/s.csv"],
]


@pytest.mark.parametrize("arguments", LIGHT, ids=lambda v: " ".join(v[:3]))
def test_what_only_reads_surfaces_needs_neither_torch_nor_mpi(tmp_path, arguments):
    """A laptop without them draws what a cluster computed."""
    if arguments[0] not in COMMANDS:
        pytest.skip(f"there is no command {arguments[0]} yet")
    surface = str(_surface(tmp_path / "plane.h5"))
    places = {"SURFACE": surface, "FOLDER/s.csv": str(tmp_path / "s.csv")}
    assert not _loaded_by(*(places.get(a, a) for a in arguments)) & {"torch", "mpi4py"}


# Status.


def test_status_of_a_partial_surface(tmp_path, capsys):
    """Ten of twelve cells at one each second leave two seconds to go."""
    path = _surface(tmp_path / "plane.h5")
    found = _status(capsys, path)
    expected = {
        "surface": str(path),
        "name": "plane",
        "state": "partial",
        "shape": [3, 4],
        "axes": ["beta", "alpha"],
        "cells": 12,
        "done": 10,
        "missing": 2,
        "failed": 0,
        "rate_per_s": 1.0,
        "remaining_s": 2.0,
        "running_on": None,
        "quantities": ["train_loss"],
        "failures": [],
        "fingerprint": "f",
        "writing": "gather",
        "batch_size": 7,
    }
    assert {key: found.get(key) for key in expected} == expected


def test_status_of_a_finished_surface_with_failures(tmp_path, capsys):
    """Failed cells are not missing ones; index, coordinates and reason are listed."""
    path = _surface(tmp_path / "plane.h5", failed=[6])
    _finish(path, [10, 11])
    found = _status(capsys, path)
    assert (found["state"], found["done"], found["missing"]) == ("finished", 11, 0)
    assert found["remaining_s"] is None
    assert found["failures"] == [{"cell": 6, "beta": 1.0, "alpha": 1.0, "reason": "no cell 6"}]
    main(["status", str(path)])
    assert "cell 6 failed: no cell 6" in capsys.readouterr().out


def test_status_of_a_running_surface(tmp_path, capsys):
    """A lock with a living owner and missing cells; without the lock it is partial again."""
    path = _surface(tmp_path / "plane.h5")
    with lock.held(path, lost=lambda: None):
        found = _status(capsys, path)
        assert found["state"] == "running"
        assert socket.gethostname() in found["running_on"]
    assert _status(capsys, path)["state"] == "partial"


def test_status_of_a_job(make_job, capsys):
    """Before its first run: not started, with the cells to come; then that of its surface."""
    path = make_job()
    found = _status(capsys, path)
    assert (found["state"], found["shape"], found["axes"]) == (
        "not started",
        [4, 7],
        ["beta", "alpha"],
    )
    assert (found["cells"], found["missing"], found["done"]) == (28, 28, 0)
    assert found["surface"] == str(path.with_suffix(".h5"))
    main(["status", str(path)])
    assert "not started" in capsys.readouterr().out
    _surface(path.with_suffix(".h5"))
    assert _status(capsys, path)["done"] == 10


def test_status_of_another_writers_surface(tmp_path, capsys):
    """Facts about cells are no results: without them the rate is unknown, and no more."""
    import h5py

    path = _surface(tmp_path / "plane.h5", failed=[3])
    with h5py.File(path, "r+") as file:
        for name in store.PROVENANCE:
            del file[name]
    found = _status(capsys, path)
    assert (found["done"], found["failed"], found["rate_per_s"]) == (9, 1, None)
    assert [f["cell"] for f in found["failures"]] == [3]


def test_the_keys_of_status_are_the_same_in_every_state(tmp_path, make_job, capsys):
    """What a script reads of a surface it can read of a job that has not been started."""
    partial = _status(capsys, _surface(tmp_path / "plane.h5"))
    assert _status(capsys, make_job()).keys() == partial.keys()


def test_status_counts_for_scripts(tmp_path, make_job, capsys):
    """A number alone; of a job that has not begun all cells are missing; one way of output only."""
    path = _surface(tmp_path / "plane.h5", failed=[6])

    def counted(what, of=path):
        assert main(["status", str(of), "--count", what]) == 0
        return capsys.readouterr().out

    assert [counted(w) for w in ("done", "missing", "failed")] == ["9\n", "2\n", "1\n"]
    assert counted("missing-cells") == "2\n"
    assert counted("missing", of=make_job()) == "28\n"
    assert main(["status", str(path), "--count", "done", "--json"]) == 2
    assert main(["status", str(tmp_path / "gone.h5"), "--count", "done"]) == 2
    assert capsys.readouterr().out == ""


def test_status_counts_checkpoints_of_a_trajectory_unless_asked_not_to(tmp_path, capsys):
    """A script knows whether the checkpoints in a file are still the job's."""
    path = tmp_path / "plane.h5"
    columns = {"epoch": np.array([1, 5]), "alpha": np.zeros(2), "beta": np.zeros(2)}
    track = store.TrajectoryLayout(columns=columns, quantities=["train_loss"], attributes={})
    grid = Grid({"beta": np.arange(3.0), "alpha": np.linspace(-1, 2, 4)})
    layout = store.Layout(grid=grid, quantities=["train_loss"], attributes={}, trajectory=track)
    store.create(path, layout)
    for what, expected in (("missing", 14), ("missing-cells", 12), ("done", 0)):
        assert main(["status", str(path), "--count", what]) == 0
        assert capsys.readouterr().out == f"{expected}\n"


def test_status_of_a_job_without_a_surface(make_job, capsys):
    """A job that only trains has no cells, and that is no error."""
    assert main(["status", str(make_job(grid=None, directions=None))]) == 0
    assert "cells      0 ()" in capsys.readouterr().out


# Schema, starter, zoo.


def _objects(node):
    if isinstance(node, dict):
        yield node
        for inner in node.values():
            yield from _objects(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from _objects(inner)


@pytest.fixture
def schema(capsys):
    """What `schema` prints."""
    assert main(["schema"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_schema_is_one(schema):
    """Every reference leads somewhere, unknown keys are refused, sections are described."""
    assert set(schema["properties"]) >= set(Document.model_fields)
    references = {n["$ref"] for n in _objects(schema) if isinstance(n.get("$ref"), str)}
    assert references
    assert {r.removeprefix("#/$defs/") for r in references} <= set(schema["$defs"])
    for name, section in schema["$defs"].items():
        assert section["additionalProperties"] is False, name
        assert section["description"], name


def test_the_schema_accepts_the_jobs_of_the_repository(schema):
    """So editors do not mark what the loader takes, files that extend others included."""
    root = Path(__file__).parents[2]
    validator = jsonschema.Draft202012Validator(schema)
    for path in [*(root / "jobs").rglob("*.yaml"), root / "lsengine" / "job" / "starter.yaml"]:
        validator.validate(yaml.load(path.read_text(), yaml.CSafeLoader))


@pytest.mark.parametrize(
    ("text", "is_valid"),
    [
        ("{model: {arch: mlp}, data: {dataset: digits}, batch_norm: frozen}", True),
        ("{model: {arch: mlp}, data: {dataset: digits}, batch_norm: {policy: frozen}}", True),
        ("{model: {arch: mlp}, data: {dataset: digits}, batch_norm: frosen}", False),
        ("{model: {arch: 20}}", False),
        ("{extends: base.yaml, model: {checkpoint: a.pt}, train: {lr: 0.05}}", True),
        ("{extends: base.yaml, train: {learning: 0.05}}", False),
    ],
)
def test_the_schema_knows_short_forms_and_what_may_be_left_out(schema, text, is_valid):
    """A policy by its name alone; what another file or a matrix may have is not required."""
    found = jsonschema.Draft202012Validator(schema).is_valid(yaml.safe_load(text))
    assert found == is_valid


def test_init_writes_a_job_that_loads(tmp_path, capsys):
    """It is whole for training; `eval` misses the checkpoint only, and says who makes it."""
    path = tmp_path / "first.yaml"
    assert main(["init", str(path)]) == 0
    assert str(path) in capsys.readouterr().out
    assert jobs.load(path, command="train").document.name == "starter"
    assert main(["eval", str(path)]) == 2
    error = capsys.readouterr().err
    assert "1 problem(s)" in error
    assert "model.checkpoint: no such file: " in error
    assert '"lsengine train" of this job writes one' in error


def test_the_zoo_is_listed_with_its_parameters(capsys):
    """Every name once; the sizes are those of the papers."""
    assert main(["models"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    sizes = {name: int(count.replace(",", "")) for name, count in lines}
    assert [name for name, _ in lines] == list(ARCHITECTURES)
    assert {name: sizes[name] for name in PARAMETERS} == PARAMETERS


# Ends.


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


def _piped(command, **options):
    """Return code, output and errors of a command whose reader goes away after a line."""
    script = f"set -o pipefail; {{ {command}; echo code $? >&2; }} | head -n 1"
    ended = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=60, check=False, **options
    )
    *errors, code = ended.stderr.splitlines()
    return int(code.removeprefix("code ")), ended.stdout, errors


def test_a_reader_that_goes_away_is_no_error():
    """`lsengine schema | head -1` ends quietly, and with 0, as all that was asked for is done."""
    assert _piped(f"'{LSENGINE}' schema") == (0, "{\n", [])


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


def test_work_that_a_broken_pipe_ends_is_not_done(monkeypatch, capsys):
    """Whatever the command: code 75, as after Ctrl-C, unless only its result is not read."""
    from lsengine import models

    def broken():
        raise BrokenPipeError

    monkeypatch.setattr(models, "zoo", broken)
    assert main(["models"]) == 75
    assert capsys.readouterr().err == "interrupted; the same command goes on\n"


def test_watching_ends_when_nobody_reads(tmp_path, monkeypatch):
    """Whoever watches no more does not want to know; without the end it would go on for ever."""
    path = _surface(tmp_path / "plane.h5")
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert main(["status", str(path), "--watch", "--every", "0.1"]) == 0
