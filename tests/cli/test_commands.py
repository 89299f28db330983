"""Commands that tell: status for people and scripts, the schema, the starter, the zoo."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import h5py
import jsonschema
import numpy as np
import pytest
import yaml

from lsengine import job as jobs
from lsengine import models, store
from lsengine.cli import main
from lsengine.job.schema import ARCHITECTURES, Document, ModelSpec
from lsengine.store import lock
from lsengine.surface.grid import Grid
from tests.support.jobs import write_job
from tests.support.planes import finish, partial_plane
from tests.support.surfaces import edited

PARAMETERS = {  # at 3x32x32 and 10 classes; sums over the layers of the papers' tables
    "resnet20": 272_474,
    "resnet56": 855_770,
    "resnet56_noshort": 853_018,
    "resnet110": 1_730_714,
    "densenet121": 6_956_298,
    "vgg16": 14_991_946,
}


def _status(capsys, path):
    assert main(["status", str(path), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_status_of_a_partial_surface(tmp_path, capsys):
    """Ten of twelve cells at one each second leave two seconds to go."""
    path = partial_plane(tmp_path / "plane.h5")
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
    path = partial_plane(tmp_path / "plane.h5", failed=[6])
    finish(path, [10, 11])
    found = _status(capsys, path)
    assert (found["state"], found["done"], found["missing"]) == ("finished", 11, 0)
    assert found["remaining_s"] is None
    assert found["failures"] == [{"cell": 6, "beta": 1.0, "alpha": 1.0, "reason": "no cell 6"}]
    main(["status", str(path)])
    assert "cell 6 failed: no cell 6" in capsys.readouterr().out


def test_status_of_a_running_surface(tmp_path, capsys):
    """A lock with a living owner and missing cells; without the lock it is partial again."""
    path = partial_plane(tmp_path / "plane.h5")
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
    partial_plane(path.with_suffix(".h5"))
    assert _status(capsys, path)["done"] == 10


def test_status_of_another_writers_surface(tmp_path, capsys):
    """Facts about cells are no results: without them the rate is unknown, and no more."""
    path = partial_plane(tmp_path / "plane.h5", failed=[3])
    with edited(path) as file:
        for name in store.PROVENANCE:
            del file[name]
    found = _status(capsys, path)
    assert (found["done"], found["failed"], found["rate_per_s"]) == (9, 1, None)
    assert [f["cell"] for f in found["failures"]] == [3]


def test_the_keys_of_status_are_the_same_in_every_state(tmp_path, make_job, capsys):
    """What a script reads of a surface it can read of a job that has not been started."""
    partial = _status(capsys, partial_plane(tmp_path / "plane.h5"))
    assert _status(capsys, make_job()).keys() == partial.keys()


def test_status_counts_for_scripts(tmp_path, make_job, capsys):
    """A number alone; of a job that has not begun all cells are missing; one way of output only."""
    path = partial_plane(tmp_path / "plane.h5", failed=[6])

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


def test_status_verifies(tmp_path, capsys, make_job):
    """A line for each part, and code 4 if anything has changed; of a job all that are there."""
    path = partial_plane(tmp_path / "plane.h5", failed=[3])
    assert main(["status", str(path), "--verify"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "  layout     as it was laid out",
        "  data       as they were laid out",
        "  cells      10 finished, all fit their checksums",
    ]
    with h5py.File(path, "r+") as file:
        file["train_loss"][0, 2] += 1.0
    assert main(["status", str(path), "--verify"]) == 4
    assert capsys.readouterr().out.splitlines()[3] == "  cells      damaged: cells 2"
    assert _status(capsys, path)["damaged"] == 1
    assert main(["status", str(path)]) == 0
    assert "  damaged    1; they count as missing" in capsys.readouterr().out
    assert main(["status", str(path), "--verify", "--json"]) == 2
    job = make_job()
    assert main(["status", str(job), "--verify"]) == 2
    partial_plane(job.with_suffix(".h5"))
    assert main(["status", str(job), "--verify"]) == 0


def test_status_of_a_job_without_a_surface(make_job, capsys):
    """A job that only trains has no cells, and that is no error."""
    assert main(["status", str(make_job(grid=None, directions=None))]) == 0
    assert "cells      0 ()" in capsys.readouterr().out


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


def test_init_lists_what_a_job_moves_before_any_checkpoint(tmp_path, capsys):
    """By the network that the job names; every name is there."""
    path = write_job(
        tmp_path,
        "a",
        model={"arch": "mlp", "checkpoint": "not_yet.pt"},
        directions={
            "alpha": {"kind": "random", "ignore": ["bias"]},
            "beta": {"kind": "random", "ignore": ["*.weight"]},
        },
        grid={"alpha": [0, 1, 2], "beta": [0, 1, 2]},
    )
    assert main(["init", "--list", str(path)]) == 0
    network = models.build(
        ModelSpec(arch="mlp"), channels=6, classes=3, size=None, job_folder=tmp_path
    )
    sizes = {name: p.numel() for name, p in network.named_parameters()}
    filters = {n: len(p) if p.ndim > 1 else 1 for n, p in network.named_parameters()}
    expected = []
    for axis, (moves, stays, why) in {
        "alpha": ("weight", "bias", "bias"),
        "beta": ("bias", "weight", "*.weight"),
    }.items():
        first = [name for name in sizes if name.endswith(moves)]
        second = [name for name in sizes if name.endswith(stays)]
        numbers = sum(sizes[name] for name in first)
        expected += [
            f"{axis}: {len(first)} of {len(sizes)} parameters move ({numbers:,} numbers, "
            f"{sum(filters[name] for name in first):,} filters)",
            f"  moves: {', '.join(first)}",
            f"  {why}: {', '.join(second)}",
        ]
    assert sorted(capsys.readouterr().out.splitlines()) == sorted(expected)


def test_init_lists_one_job_of_a_matrix(tmp_path, capsys):
    """Which one is asked for by --only, as the refusal of several says."""
    path = write_job(tmp_path, "a-{s}", matrix={"s": [0, 1]}, grid={"alpha": [0, 1, 2]},
                     directions={"alpha": {"kind": "random"}}, output="{s}.h5")  # fmt: skip
    assert main(["init", "--list", str(path)]) == 2
    assert "a matrix makes a-0, a-1; take one of them with --only" in capsys.readouterr().err
    assert main(["init", "--list", str(path), "--only", "a-1"]) == 0
    assert capsys.readouterr().out.startswith("alpha: ")
    assert main(["init", str(tmp_path / "new.yaml"), "--only", "a-1"]) == 2
    assert "--only goes with --list" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["x" * 300, "x/" * 3000])
def test_a_checkpoint_whose_name_is_too_long_gets_no_job(capsys, name):
    """One message, as for one that is not there."""
    assert main(["init", name]) == 2
    assert "cannot be looked at: File name too long" in capsys.readouterr().err
    assert main(["init", "gone.pt"]) == 2
    assert "gone.pt: no such checkpoint" in capsys.readouterr().err


def test_a_job_without_directions_lists_nothing(tmp_path, capsys):
    """One message, no traceback."""
    path = write_job(tmp_path, "a", directions=None, grid=None)
    assert main(["init", "--list", str(path)]) == 2
    assert "has no section directions" in capsys.readouterr().err


def test_the_zoo_is_listed_with_its_parameters(capsys):
    """Every name once; the sizes are those of the papers."""
    assert main(["models"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    sizes = {name: int(count.replace(",", "")) for name, count in lines}
    assert [name for name, _ in lines] == list(ARCHITECTURES)
    assert {name: sizes[name] for name in PARAMETERS} == PARAMETERS


def test_a_change_on_the_command_line_is_in_the_surface(tmp_path, capsys):
    """The attribute `job` has it; a job file that says it continues the same surface."""
    path = write_job(tmp_path, "a", grid={"alpha": [0, 1, 2], "beta": [0, 1, 2]})
    changes = ["--set", "directions.beta.only=[3.*]", "--set", "grid.beta=[0, 0, 1]"]
    assert main(["eval", str(path), *changes, "--progress", "none"]) == 0
    surface = store.read(tmp_path / "a.h5")
    said = yaml.safe_load(surface.attributes["job"])
    assert said["directions"]["beta"]["only"] == ["3.*"]
    assert surface.status.shape == (1, 2)
    document = yaml.safe_load(path.read_text())
    document["grid"]["beta"] = [0, 0, 1]
    document["directions"]["beta"]["only"] = ["3.*"]
    path.write_text(yaml.safe_dump(document))
    assert main(["eval", str(path), "--progress", "none"]) == 0
    assert main(["init", str(tmp_path / "new.yaml"), *changes]) == 2
    assert "--set goes with --list" in capsys.readouterr().err
    assert main(["init", "--list", str(path), "--set", "directions.alpha.only=[0.*]"]) == 0
    assert "not in only: 1.weight" in capsys.readouterr().out


def test_one_picture_goes_into_several_files(capsys, tmp_path):
    """Each is named; a watched one is one file, and nothing is drawn if one name is wrong."""
    path, names = partial_plane(tmp_path / "plane.h5"), [tmp_path / "a.png", tmp_path / "b.svg"]
    arguments = ["render", str(path), "--as", "heatmap", "-o", str(names[0]), "-o"]
    assert main([*arguments, str(tmp_path / "b.xyz")]) == 2
    assert main([*arguments, str(names[1]), "--watch"]) == 2
    assert not names[0].exists()
    capsys.readouterr()
    assert main([*arguments, str(names[1])]) == 0
    assert capsys.readouterr().out.split() == [str(name) for name in names]
    assert all(name.stat().st_size for name in names)
