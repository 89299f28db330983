"""The studies' job files: they load, fit one another, and the script asks for what they write."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from lsengine.engine.connect import plane, segments
from lsengine.job import Job, load_all
from lsengine.training import recipe
from tests.support.launchers import ROOT

JOBS = ROOT / "jobs"
BASES = {
    "paper/recipe.yaml",
    "cifar10/recipe.yaml",
    "cifar10/view.yaml",
}  # are extended, and no job by themselves
MADE = {"twin.pt", "ascent.pt"}  # checkpoints that scripts beside the jobs write
FILES = sorted({str(path.relative_to(JOBS)) for path in JOBS.rglob("*.yaml")} - BASES)
STUDIES = {"sharp_flat", "seeds", "repeats", "skip", "width", "dense"}
STUDIES |= {"trajectory", "connect", "three"}
FOLDERS = ("", "sharp_flat", "skip", "width", "dense")


@cache
def jobs_of(file: str) -> list[Job]:
    """Return all jobs of a file."""
    return load_all(JOBS / file)


def all_jobs() -> Iterator[Job]:
    """Yield every job of every study."""
    for file in FILES:
        yield from jobs_of(file)


def training(job: Job) -> dict[str, object]:
    """Return what decides the result of a job's training."""
    content = job.document.model_dump(mode="json")
    train = {k: v for k, v in content["train"].items() if k != "output"}
    model = {k: content["model"][k] for k in ("arch", "args")}
    data = {k: content["data"][k] for k in ("dataset", "args", "normalize")}
    return {"train": train, "model": model, "data": data}


def trainings() -> dict[Path, Job]:
    """Return a job that trains, for each folder of checkpoints."""
    return {job.path(job.document.train.output): job for job in all_jobs() if job.document.train}


@pytest.mark.parametrize("file", FILES)
def test_every_file_is_a_set_of_distinct_whole_jobs(file: str) -> None:
    """Names differ within a file, and no placeholder is left without its value."""
    jobs = jobs_of(file)
    names = [job.document.name for job in jobs]
    assert len(set(names)) == len(names)
    for job in jobs:
        text = job.resolved()
        assert "{model." not in text
        assert "{train." not in text
        assert "{seed}" not in text


def test_one_surface_is_of_one_job() -> None:
    """Two jobs that write one surface, or one folder of checkpoints, are the same."""
    surfaces: dict[Path, object] = {}
    folders: dict[Path, object] = {}
    for job in all_jobs():
        content = job.document.model_dump(mode="json", exclude={"launch", "train"})
        if job.document.directions is not None:
            assert surfaces.setdefault(job.output, content) == content, job.output
        if job.document.train is not None:
            folder = job.path(job.document.train.output)
            assert folders.setdefault(folder, training(job)) == training(job), folder


def test_every_checkpoint_is_one_that_a_training_saves() -> None:
    """The centre and the end of a line are saved by a training of the same network."""
    by_folder = trainings()
    checked = 0
    for job in all_jobs():
        if job.document.directions is None:
            continue
        for path in (job.checkpoint, *job.direction_files().values()):
            if path.name in MADE:
                continue
            trained = by_folder[path.parent]
            assert trained.document.train is not None
            saved = {f"epoch_{e:03d}.pt" for e in recipe.saved_epochs(trained.document.train)}
            assert path.name in saved, path
            assert trained.document.model.arch == job.document.model.arch
            checked += 1
    assert checked > 100


def test_the_paper_has_a_folder_for_each_figure_and_a_row_of_commands() -> None:
    """Figures 1 to 9 and the repeats; the table names every job, and only what jobs write."""
    folders = {path.name for path in (JOBS / "paper").iterdir() if path.is_dir()}
    assert folders == {*(f"figure{n}" for n in range(1, 10)), "repeats"}
    text = (JOBS / "paper" / "README.md").read_text()
    for file in FILES:
        if file.startswith("paper/figure8"):
            assert "jobs/paper/figure8/{random,toward}.yaml" in text
        elif file.startswith("paper/"):
            assert f"jobs/{file}" in text, file
    written = {str(job.output.relative_to(ROOT)) for job in all_jobs()}
    written |= {f"{folder.relative_to(ROOT)}/history.h5" for folder in trainings()}
    written.add("surfaces/paper/vgg9-weights.h5")
    patterns = re.findall(r"(?:surfaces|checkpoints)/paper/\S+?\.h5", text)
    assert len(patterns) > 15
    for pattern in patterns:
        for one in _braces_expanded(pattern):
            assert any(fnmatch(path, one) for path in written), one


def test_every_figure_of_the_paper_has_a_study_at_digits_size() -> None:
    """Each row of the table names jobs in jobs/digits that the script runs."""
    script = (ROOT / "launch" / "studies.sh").read_text()
    text = (JOBS / "paper" / "README.md").read_text()
    table = [
        [cell.strip() for cell in line.split("|")] for line in text.splitlines() if "|" in line
    ]
    head, _, *rows = table
    assert {row[1].split(",")[0] for row in rows} == {*map(str, range(1, 10)), "repeats"}
    for row in rows:
        named = row[head.index("digits")].strip("`")
        for one in _braces_expanded(named):
            assert (JOBS / "digits" / one).is_file(), one
        assert Path(named).name in script, named


def _braces_expanded(pattern: str) -> list[str]:
    """Return what a shell makes of ``a{b,c}``."""
    command = ["bash", "-c", f"set -f; printf '%s\\n' {pattern}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_what_a_curve_looks_at_is_what_it_trains() -> None:
    """A job with a training and a centre has the centre in the training's own folder."""
    for job in all_jobs():
        if job.document.train is not None and job.document.directions is not None:
            assert job.checkpoint.parent == job.path(job.document.train.output)


def test_the_paper_has_its_recipe() -> None:
    """Batches, weight decays, rates and epochs of Li et al. (2018)."""
    minima = [job.document.train for job in jobs_of("paper/figure2/minima.yaml")]
    recipes = {(t.optimizer, t.lr, t.batch_size, t.weight_decay) for t in minima if t}
    assert recipes == {
        (optimizer, lr, batch, decay)
        for optimizer, lr in (("sgd", 0.1), ("adam", 0.001))
        for batch in (128, 8192)
        for decay in (0.0, 5e-4)
    }
    for file in FILES:
        for job in jobs_of(file) if file.startswith("paper/") else ():
            if (t := job.document.train) is not None:
                assert (t.epochs, t.milestones, t.gamma) == (300, [150, 225, 275], 0.1)
                assert (t.crop, t.flip, t.momentum, t.nesterov) == (4, True, 0.9, True)


@pytest.fixture
def calls(tmp_path: Path) -> list[list[str]]:
    """Run the script with an lsengine that only takes note; return its arguments."""
    for folder in ("launch", "env/bin"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(ROOT / "launch" / "studies.sh", tmp_path / "launch")
    notes = tmp_path / "notes.txt"
    stubs = {"lsengine": f'echo "$@" >> {notes}', "mpirun": 'shift 2; "$@"', "python": "true"}
    for name, body in stubs.items():
        stub = tmp_path / "env" / "bin" / name
        stub.write_text(f"#!/bin/sh\n{body}\n")
        stub.chmod(0o755)
    subprocess.run(
        [tmp_path / "launch" / "studies.sh"],
        env={**os.environ, "ENVIRONMENT": "env"},
        check=True,
        capture_output=True,
        timeout=60,
    )
    return [line.split() for line in notes.read_text().splitlines()]


def test_the_script_draws_what_its_jobs_write(calls: list[list[str]]) -> None:
    """Every surface and history that is drawn or compared is written by a job run before."""
    written = {Path("surfaces/digits/sharp_flat/weights.h5")}  # by `lsengine histogram`
    drawn: set[Path] = set()
    for command, *arguments in calls:
        if command in ("train", "eval", "connect"):
            files = [Path(a).relative_to("jobs") for a in arguments if a.endswith(".yaml")]
            jobs = [job for file in files for job in jobs_of(str(file))]
            if command == "eval":
                written |= {job.output.relative_to(ROOT) for job in jobs}
            elif command == "connect":
                made = [made for job in jobs for made in (*segments(job), *plane(job))]
                written |= {job.output.relative_to(ROOT) for job in made}
            else:
                folders = [job.path(job.document.train.output) for job in jobs]
                written |= {f.relative_to(ROOT) / "history.h5" for f in folders}
        elif command in ("render", "compare"):
            drawn |= {Path(a) for a in arguments if a.endswith(".h5")}
    assert drawn
    assert drawn <= written
    run = {Path(a).parent for c in calls for a in c if a.endswith(".yaml")}
    assert run == {Path("jobs/digits", folder) for folder in FOLDERS}


def test_the_script_refuses_an_unknown_study(tmp_path: Path) -> None:
    """A misspelt study is named, and so are those that there are."""
    for name in ("launch", "env/bin"):
        (tmp_path / name).mkdir(parents=True)
    shutil.copy(ROOT / "launch" / "studies.sh", tmp_path / "launch")
    done = subprocess.run(
        [tmp_path / "launch" / "studies.sh", "skp"],
        env={**os.environ, "ENVIRONMENT": "env"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "skp" in done.stderr
    assert set(done.stderr.split()) >= STUDIES


@pytest.fixture
def minima(scripts: Any) -> dict[str, Any]:
    """Return what the script of the eight minima defines."""
    return vars(scripts("minima"))


def _csv(path: Path, names: Iterable[str], **columns: Iterable[object]) -> None:
    table = {"name": names, **columns}
    lines = [
        ",".join(table),
        *(",".join(map(str, row)) for row in zip(*table.values(), strict=True)),
    ]
    path.write_text("\n".join(lines) + "\n")


def test_the_table_of_minima_joins_what_compare_wrote(
    minima: dict[str, Any], tmp_path: Path
) -> None:
    """Bounds, stars and ends of lines land in the right rows; correlations are those by hand."""
    names = ["sgd-wd0-bs8", "sgd-wd0-bs300"]
    empty = ["", ""]
    _csv(tmp_path / "raw.csv", names, width=[0.2, 0.05], lower_bounds=["width", ""], notes=empty)
    _csv(
        *(tmp_path / "filter.csv", names),
        **{"train_loss": [0.001, 0.002], "test_error": [0.03, 0.05], "width": [1.5, 0.75]},
        **{"lower_bounds": empty, "notes": empty},
    )
    few = ["", "only 9 cells lie in the basin; a job with more would resolve it"]
    _csv(tmp_path / "plane.csv", names, basin=[1.25, 0.125], lower_bounds=empty, notes=few)
    rises = {"bs8": 0.5, "bs300": 2.5}
    norms = {"sgd-wd0-bs8": 40.04, "sgd-wd0-bs300": 30.0}
    table = minima["rows"](tmp_path, norms, {"sgd-wd0": rises})
    assert [list(row.values()) for row in table] == [
        ["sgd-wd0-bs8", "0.001", "0.03", "40", "0.5", ">= 0.2", "1.5", "1.25"],
        ["sgd-wd0-bs300", "0.002", "0.05", "30", "2.5", "0.05", "0.75", "0.125*"],
    ]
    assert minima["correlations"](table) == pytest.approx(
        {"line_rise": 1.0}
        | dict.fromkeys(("weight_norm", "raw_width", "filter_width", "basin"), -1.0)
    )
    minima["write"](table, tmp_path / "minima.csv")
    assert minima["read"](tmp_path / "minima.csv") == table


def test_the_document_has_the_table_that_the_script_made(minima: dict[str, Any]) -> None:
    """What docs/STUDIES.md shows of the eight minima is docs/studies/minima.csv, and no copy."""
    table = minima["read"](ROOT / "docs" / "studies" / "minima.csv")
    assert len(table) == 8
    assert minima["markdown"](table) in (ROOT / "docs" / "STUDIES.md").read_text()


def test_yaml_of_bases_is_readable() -> None:
    """A base is YAML too, and names no network of its own."""
    for base in BASES:
        assert "arch" not in yaml.safe_load((JOBS / base).read_text()).get("model", {})
